package raftio

import (
	"errors"
	"fmt"
	"math"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/entry"
)

// Raft believes its members: it is about pods that die and messages that are lost,
// not about software that is broken, or that somebody else has written. What is
// looked at here is what such a pod could do that outlasts it: an entry that ends each
// pod that applies it, a term or an index beyond which there is none, a change of what
// is committed. Everything is refused as a whole, which is the same as losing it, and
// so is always allowed.
//
// # Entries
//
// An entry that this pod cannot decode is not taken into the log. Once it is there, and
// a quorum has it, it is committed: each pod that cannot decode it ends over it
// (skipping it would make its data differ), after every restart again, and with
// three such pods the cluster is gone until their software is replaced. Refused, it is
// stored where it is understood, at most; it is committed if a quorum does
// understand it, and the pod that does not stays behind, not ready, until it is
// updated: with its vote, for its log is a correct one, and with its data. If no
// quorum understands the entry, its writer is told nothing, and the next
// master that comes without it goes on. So a newer version that writes such entries
// while a quorum is older stops the cluster, until it is updated or taken back,
// and loses nothing; that is why a version must not write what the one before does
// not read. The entry that is in the log already, by a downgrade, stops the
// pod as ever, see fsm.apply.
//
// # Terms
//
// A term may be at most maxTermJump above what this pod's was a second ago. Terms grow by
// one an election, and an election takes half a second: one that is a million above was
// not reached by elections that this pod missed, which take a week of nothing else.
// Neither end of such a difference is final all the same. A pod that is behind goes
// towards the term of a message that it refuses, by the same million each second (see
// stepTowards): whoever makes terms grow for a minute, the pods meet again a minute
// later. One that is ahead of a master is away for that one, asks it to be taken out, and
// clones (see node.recloneIfStranded). Nor can the terms be used up: at a million a
// second they last for a hundred thousand years.

const (
	// maxTermJump is how far a member's term may be above this pod's.
	maxTermJump = 1 << 20
	// maxNumber is above any term and index that there will be, and far enough from
	// where they end for sums.
	maxNumber = 1 << 62
)

var (
	// errFarAhead is returned for a term that no elections have led to.
	errFarAhead = errors.New("its term is too far above this pod's")
	errNoSuch   = errors.New("no member sends such a message")
)

// farAbove says whether a term is not to be believed by a pod with its own.
func farAbove(term, own uint64) bool {
	return term > own && (term >= maxNumber || term-own > maxTermJump)
}

// term is this pod's.
func (t *Transport) term() uint64 {
	if r := t.raft.Load(); r != nil {
		return r.CurrentTerm()
	}
	term, err := t.replica.Storage.votes.GetUint64(currentTerm)
	if err != nil {
		return 0
	}
	return term
}

// vet says why the library must not get a message.
func (t *Transport) vet(command any) error {
	switch req := command.(type) {
	case *raft.AppendEntriesRequest:
		return t.vetEntries(req)
	case *raft.RequestVoteRequest:
		return t.vetNumbers(req.Term, req.LastLogTerm, req.LastLogIndex)
	case *raft.RequestPreVoteRequest:
		return t.vetNumbers(req.Term, req.LastLogTerm, req.LastLogIndex)
	case *raft.InstallSnapshotRequest:
		return t.vetSnapshot(req)
	case *raft.TimeoutNowRequest:
		return t.vetCall(req)
	}
	return fmt.Errorf("%w: %T", errNoSuch, command)
}

// vetNumbers is for a message of a term about an entry.
func (t *Transport) vetNumbers(term, entryTerm, index uint64) error {
	if own := t.term(); term > own && farAbove(term, t.doubts.since(own)) {
		return fmt.Errorf("%w: %d, this pod's is %d", errFarAhead, term, own)
	}
	if entryTerm > term || index >= maxNumber {
		return fmt.Errorf("%w: entry %d of term %d in term %d", errNoSuch, index, entryTerm, term)
	}
	return nil
}

func (t *Transport) vetEntries(req *raft.AppendEntriesRequest) error {
	t.noteBehind(req.Term)
	if err := t.vetNumbers(req.Term, req.PrevLogTerm, req.PrevLogEntry); err != nil {
		return err
	}
	term := req.PrevLogTerm
	for i, l := range req.Entries {
		if l == nil || l.Index != req.PrevLogEntry+uint64(i)+1 || l.Term < term || l.Term > req.Term {
			return fmt.Errorf("%w: %v, after entry %d of term %d, in term %d", errNoSuch, place(l), req.PrevLogEntry+uint64(i), term, req.Term)
		}
		term = l.Term
		if err := acceptable(l); err != nil {
			return err
		}
	}
	return t.vetCommitted(req.Entries)
}

func place(l *raft.Log) string {
	if l == nil {
		return "no entry"
	}
	return fmt.Sprintf("entry %d of term %d", l.Index, l.Term)
}

// acceptable says why an entry must not get into this pod's log.
func acceptable(l *raft.Log) error {
	if err := intact(l); err != nil {
		return err
	}
	switch l.Type {
	case raft.LogNoop:
		return nil
	case raft.LogCommand:
		if err := entry.Check(l.Data); err != nil {
			return fmt.Errorf("log entry %d: %w", l.Index, err)
		}
		return nil
	case raft.LogConfiguration:
		if err := vetMembers(raft.DecodeConfiguration(l.Data)); err != nil {
			return fmt.Errorf("log entry %d: %w", l.Index, err)
		}
		return nil
	}
	return fmt.Errorf("log entry %d: %w: type %s", l.Index, entry.ErrUnknown, l.Type)
}

func vetMembers(c raft.Configuration) error {
	known := map[raft.ServerID]bool{}
	for _, s := range c.Servers {
		if !replication.MemberID(s.ID).Valid() || string(s.Address) != string(s.ID) || known[s.ID] || s.Suffrage > raft.Staging {
			return fmt.Errorf("%w: a membership with %q at %q", errNoSuch, s.ID, s.Address)
		}
		known[s.ID] = true
	}
	if len(Voters(c)) == 0 {
		return fmt.Errorf("%w: a membership without a voter", errNoSuch)
	}
	return nil
}

// vetCommitted refuses other entries than those that are committed here, in whose place
// the library would put them.
func (t *Transport) vetCommitted(entries []*raft.Log) error {
	committed := t.replica.Applied.Value.Load()
	if r := t.raft.Load(); r != nil {
		committed = max(committed, r.CommitIndex())
	}
	for _, l := range entries {
		if l.Index > committed {
			return nil
		}
		var own raft.Log
		if err := t.replica.Storage.Log.GetLog(l.Index, &own); err == nil && own.Term != l.Term {
			return fmt.Errorf("%w: %s, where %s is committed", errNoSuch, place(l), place(&own))
		}
	}
	return nil
}

func (t *Transport) vetSnapshot(req *raft.InstallSnapshotRequest) error {
	if err := t.vetNumbers(req.Term, req.LastLogTerm, req.LastLogIndex); err != nil {
		return err
	}
	if req.SnapshotVersion != raft.SnapshotVersionMax || req.LastLogIndex == 0 || req.Size <= 0 || req.Size == math.MaxInt64 || req.ConfigurationIndex > req.LastLogIndex {
		return fmt.Errorf("%w: a snapshot of %d bytes and version %d, at %d, with the membership of %d",
			errNoSuch, req.Size, req.SnapshotVersion, req.LastLogIndex, req.ConfigurationIndex)
	}
	membership := &raft.Log{Index: req.ConfigurationIndex, Type: raft.LogConfiguration, Data: req.Configuration}
	return acceptable(membership)
}

// vetCall refuses an order to stand for election that does not come from the master, or
// from this pod.
func (t *Transport) vetCall(req *raft.TimeoutNowRequest) error {
	from, r := raft.ServerID(req.ID), t.raft.Load()
	if r == nil {
		return fmt.Errorf("%w: it is too early to stand for election", errNoSuch)
	}
	if _, master := r.LeaderWithID(); from != raft.ServerID(t.replica.Self) && master != "" && from != master {
		return fmt.Errorf("%w: %s is not the master, and tells this pod to stand for election", errNoSuch, from)
	}
	return nil
}

// believable returns an error for an answer whose term is not to be believed: whoever
// gives it counts as away.
func (t *Transport) believable(from raft.ServerID, term uint64) error {
	own := t.term()
	if term <= own || !farAbove(term, t.doubts.since(own)) {
		return nil
	}
	err := fmt.Errorf("%w: %s is in %d, this pod in %d", errFarAhead, from, term, own)
	t.doubts.say(t.replica.Logger, string(from), err)
	return err
}
