package raftio

import (
	"io"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/logstream"
	"github.com/batondb/baton/replication/internal/peer"
)

// Every message of the log passes here on its way to the library, whichever way
// it came. Heartbeats do not: they carry neither entries nor a commit index.

// serve receives the pipelines of masters.
func (t *Transport) serve(pipelines *peer.Listener) {
	for {
		conn, err := pipelines.Next()
		if err != nil {
			return
		}
		t.ending.serving.Go(func() {
			from := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(conn.From), Addr: []byte(conn.From)}
			if err := logstream.Serve(t.ending.ctx, conn, from, t.admitted, t.received); err != nil {
				t.replica.Logger.Debug("a pipeline has ended", "from", conn.From, "error", err)
			}
		})
	}
}

// admitted prepares a message of a pipeline for the library, unless it must not get it.
func (t *Transport) admitted(req *raft.AppendEntriesRequest) error {
	if err := t.vet(req); err != nil {
		t.suspicious(req, err)
		return err
	}
	t.admit(req)
	return nil
}

// admit prepares a message for the library.
func (t *Transport) admit(req *raft.AppendEntriesRequest) {
	if len(req.Entries) > 0 && t.doubts.unknown.Load() != nil {
		t.doubts.unknown.Store(nil)
	}
	bound(req)
	t.proven.message(req.Term, end(req))
	t.rebase(req)
}

// end is the last entry that a follower is known to share with the sender of a
// message, once it has taken it.
func end(req *raft.AppendEntriesRequest) uint64 { return req.PrevLogEntry + uint64(len(req.Entries)) }

// bound limits what a message declares committed to its own entries and those
// before them: what a follower has beyond may come from an earlier master and
// never have been committed. ("min(leaderCommit, index of last new entry)", Raft
// paper, figure 2, AppendEntries, receiver 5.) The library reads the commit index
// when it assembles a message, later than the entries in it; and as a receiver it
// takes its own last entry for the last new one. So both ends apply the bound,
// the sender before the message waits.
func bound(req *raft.AppendEntriesRequest) {
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, end(req))
}

// check ends this pod when what it is about to send is not what was written: its
// disk is damaged, and a follower would take the damage for its own.
func (t *Transport) check(req *raft.AppendEntriesRequest) error {
	for _, l := range req.Entries {
		if l.Type != raft.LogCommand {
			continue
		}
		if err := intact(l); err != nil {
			t.fail(err)
			return err
		}
	}
	return nil
}

// rebase answers for entries that are no longer in this pod's log, or never were
// because the database was cloned: the library looks for the entry before a
// message in the log alone, and would refuse the message, and every earlier one,
// for ever. What this pod has applied was committed, and what was committed is in
// the log of every later master ("leader completeness", Raft paper, figure 3): a
// message that begins at or below it matches by definition, and begins anew with
// the first entry that was not applied. The library takes entry 0 to match.
//
// The master may be older than what was applied here, if the clone came from a
// later term than this pod knows of: so the one term that is at hand is compared.
// (TestAFirstEntryThatConflictsIsReplaced, TestRebase)
func (t *Transport) rebase(req *raft.AppendEntriesRequest) {
	applied := t.replica.Applied.Value.Load()
	if req.PrevLogEntry > applied {
		return
	}
	first, err := t.replica.Storage.Log.FirstIndex()
	if err != nil || first > 0 && first <= req.PrevLogEntry {
		return
	}
	at := t.replica.Storage.Sm.Durable()
	if term, ok := termAt(req, at.Index); ok && term != at.Term {
		t.replica.Logger.Error("a master's log differs from what was applied here: its message is refused",
			"master", string(req.ID), "term", req.Term, "index", at.Index, "its_entry_of_term", term, "own_entry_of_term", at.Term)
		// There is no entry of term 0.
		req.PrevLogEntry, req.PrevLogTerm, req.Entries = at.Index, 0, nil
		return
	}
	req.Entries = req.Entries[min(applied, end(req))-req.PrevLogEntry:]
	req.PrevLogEntry, req.PrevLogTerm = 0, 0
}

// termAt is the term of an entry in a message, or of the one before it.
func termAt(req *raft.AppendEntriesRequest, index uint64) (term uint64, ok bool) {
	switch {
	case index == 0 || index < req.PrevLogEntry || index > end(req):
		return 0, false
	case index == req.PrevLogEntry:
		return req.PrevLogTerm, true
	default:
		return req.Entries[index-req.PrevLogEntry-1].Term, true
	}
}

// has says that a snapshot has nothing new: its answer to an earlier copy was
// lost. The state machine does not go back, see fsm.Restore, and a refusal would
// have the master send the same one for ever. It is acknowledged like entries
// that are there already ("if existing log entry has same index and term as
// snapshot's last included entry, retain log entries following it and reply",
// Raft paper, figure 13, receiver 6). Other terms than this pod's are the
// library's matter. (TestASnapshotWithNothingNewIsAcknowledged)
func (t *Transport) has(req *raft.InstallSnapshotRequest) bool {
	r := t.raft.Load()
	if r == nil || r.CurrentTerm() != req.Term || req.LastLogIndex > t.replica.Applied.Value.Load() {
		return false
	}
	at := t.replica.Storage.Sm.Durable()
	return at.Index != req.LastLogIndex || at.Term == req.LastLogTerm
}

// acknowledge answers a snapshot once it is out of the connection.
func acknowledge(rpc raft.RPC, term uint64) {
	_, err := io.Copy(io.Discard, rpc.Reader)
	rpc.Respond(&raft.InstallSnapshotResponse{Term: term, Success: err == nil}, err)
}
