package raftio

import (
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/internal/seldom"
	"github.com/batondb/baton/replication/internal/entry"
)

const (
	// stepEvery bounds how fast this pod goes towards a term that it does not believe.
	stepEvery = time.Second
	// doubtLasts is how long what was refused says something of now: a master repeats
	// itself at least as often as it sends heartbeats, or ten seconds after a failure.
	doubtLasts = 30 * time.Second
)

// doubts are what was refused of other members.
type doubts struct {
	audit audit
	// unknown is the last entry that this version does not know; nil: another has come
	// since.
	unknown atomic.Pointer[unknownEntry]

	said seldom.Events

	mu sync.Mutex // guards the fields below
	// base is this pod's term, as of some time in the last stepEvery or longer ago.
	base    uint64
	basedAt time.Time
	stepped time.Time
	// behind is when a master was heard whose term is far below this pod's.
	behind time.Time
}

// unknownEntry is why an entry of a member was refused.
type unknownEntry struct {
	err    error
	at     time.Time
	author raft.ServerID
}

// say logs a doubt about a member, now and then.
func (d *doubts) say(logger *slog.Logger, of string, err error) {
	if _, due := d.said.Due(of); due {
		logger.Error("what a member sends is refused: its software is newer, broken or not Baton", "from", of, "because", err)
	}
}

// step says whether this pod may go towards a far term now.
func (d *doubts) step() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stepped.IsZero() && time.Since(d.stepped) < stepEvery {
		return false
	}
	d.stepped = time.Now()
	return true
}

// since is this pod's term, now or some time in the last stepEvery.
func (d *doubts) since(own uint64) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.basedAt.IsZero() || own < d.base || time.Since(d.basedAt) >= stepEvery {
		d.base, d.basedAt = own, time.Now()
	}
	return d.base
}

// suspicious notes a message that was refused.
func (t *Transport) suspicious(command any, err error) {
	from := "?"
	if m, ok := command.(raft.WithRPCHeader); ok {
		h := m.GetRPCHeader()
		from = string(h.ID)
	}
	t.doubts.say(t.replica.Logger, from, err)
	if errors.Is(err, entry.ErrUnknown) {
		t.doubts.unknown.Store(&unknownEntry{err, time.Now(), raft.ServerID(from)})
	}
	if errors.Is(err, errFarAhead) {
		t.stepTowards(command)
	}
}

// Unknown says why this pod cannot go on until it is updated; nil: it can. The master
// sends an entry that this version does not know.
func (t *Transport) Unknown() error {
	r, unknown := t.raft.Load(), t.doubts.unknown.Load()
	if r == nil || unknown == nil || time.Since(unknown.at) > doubtLasts {
		return nil
	}
	if _, master := r.LeaderWithID(); unknown.author != master {
		return nil
	}
	return unknown.err
}

// stepTowards raises this pod's term by maxTermJump, at most every stepEvery, when a
// message has come from further above: a pod that was away for longer than any is
// gets to the others' term so. Any pod may raise its term at any time, as one that
// stands for election and is not heard does. It is done by a message as a master of
// that term could send it, which is without effect otherwise: no log has the entry
// that it begins after.
func (t *Transport) stepTowards(command any) {
	r := t.raft.Load()
	if r == nil {
		return
	}
	if _, master := r.LeaderWithID(); master != "" {
		if _, asks := command.(*raft.RequestPreVoteRequest); asks {
			return // It is about whether there is a master, and there is.
		}
	}
	own := t.term()
	if own >= maxNumber-maxTermJump || !t.doubts.step() {
		return
	}
	t.replica.Logger.Warn("this pod raises its term, because a member has one that is far above", "from", own, "to", own+maxTermJump)
	t.ending.serving.Go(func() {
		t.give(raft.RPC{RespChan: make(chan raft.RPCResponse, 1), Command: &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, Term: own + maxTermJump, PrevLogEntry: math.MaxUint64,
		}})
	})
}

// noteBehind notes a message of a term far below this pod's.
func (t *Transport) noteBehind(term uint64) {
	if farAbove(t.term(), term) {
		t.doubts.mu.Lock()
		t.doubts.behind = time.Now()
		t.doubts.mu.Unlock()
	}
}

// Stranded says that some member leads in a term far below this pod's, as that
// member says: it does not believe this pod's answers, nor this pod its messages.
func (t *Transport) Stranded() bool {
	t.doubts.mu.Lock()
	defer t.doubts.mu.Unlock()
	return !t.doubts.behind.IsZero() && time.Since(t.doubts.behind) < stepEvery
}

// FarBelow says that a term is too far below this pod's for elections to lead from one
// to the other.
func (t *Transport) FarBelow(term uint64) bool { return farAbove(t.term(), term) }
