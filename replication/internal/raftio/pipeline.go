package raftio

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/internal/turn"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/logstream"
)

const (
	// tellAfter is how long a follower may not know that an entry is committed, when
	// no further entry tells it.
	tellAfter = 2 * time.Millisecond
	// aloneAfter is the pause after which an entry counts as alone: no other is
	// expected soon, so the follower is told at once that it is committed. It is
	// longer than the pause between the writes of a single caller, who would
	// otherwise pay for telling each follower and waking its watchers.
	aloneAfter = 10 * time.Millisecond
	// repeatAfter is how long a connection on which there is no news says nothing:
	// one that is cut is to be noticed before there is. Heartbeats have their own. It
	// must be well below Timing.Transport, by which a silent connection ends.
	repeatAfter = 500 * time.Millisecond
)

// Pipeline sends a follower entries before it has answered for the ones before,
// holds its answers back by await, and tells it soon what is committed.
//
// That a message was sent says nothing of the ones before it: the follower looks
// for the entry before each (Raft paper, 5.3), and after a refusal the pipeline
// ends (thesis, 10.2.1). An answer belongs to the message that it answers, by the
// order of the connection (TestAnswersInOrder, TestUnaskedAnswer), and counts
// when await lets it (TestConfirm, TestAcknowledgedWithoutTheMastersDisk).
type Pipeline struct {
	*logstream.Pipeline
	transport *Transport
	beats     *beats
	stored    atomic.Uint64 // the newest entry that the follower is known to have
	confirmed chan struct{} // has a token after a change of stored
	answered  atomic.Uint64 // requests

	turn  turn.Lock // One request at a time, also while there is no room; guards the fields below.
	next  raft.AppendEntriesRequest
	asked uint64    // requests
	sent  time.Time // when the last request was,
	wrote time.Time // and the last one with entries;
	alone bool      // that one came aloneAfter or later after the one before
}

// AppendEntriesPipeline implements raft.Transport.
func (t *Transport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	conn, err := t.port.DialMember(replication.MemberID(to), handshake.Append, t.timing.Transport)
	if err != nil {
		return nil, err
	}
	p := &Pipeline{transport: t, beats: t.beats, confirmed: make(chan struct{}, 1), turn: turn.New()}
	p.Pipeline = logstream.NewPipeline(conn, t.timing.Transport, func(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
		defer p.answered.Add(1)
		if err := t.believable(id, resp.Term); err != nil {
			return err
		}
		if err := t.await(replication.MemberID(to), req, resp); err != nil || !confirms(req, resp) {
			return err
		}
		p.stored.Store(req.Entries[len(req.Entries)-1].Index)
		select {
		case p.confirmed <- struct{}{}:
		default:
		}
		return nil
	})
	t.ending.serving.Go(p.tellCommitted)
	return p, nil
}

// AppendEntries implements raft.AppendPipeline.
func (p *Pipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	if bound(req); p.known(req) {
		return nil, nil // The library looks at the error alone.
	}
	return p.send(req, resp)
}

// known says that a request has nothing that was not said on this connection, and
// answered: the library repeats itself every CommitTimeout. What is not answered is
// repeated, until as many requests are on their way as can be: that ends a
// connection that is cut, and holds up a hand-over, which repeats itself without a
// pause until its follower has everything.
func (p *Pipeline) known(req *raft.AppendEntriesRequest) bool {
	return p.answered.Load() == p.asked && len(req.Entries) == 0 && req.Term == p.next.Term && req.PrevLogEntry == p.next.PrevLogEntry &&
		req.LeaderCommitIndex <= p.next.LeaderCommitIndex && time.Since(p.sent) < min(repeatAfter, p.transport.timing.Transport/4)
}

func (p *Pipeline) send(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	bound(req)
	if err := p.transport.check(req); err != nil {
		return nil, err
	}
	p.note(req)
	p.asked++
	return p.Pipeline.AppendEntries(req, resp)
}

// note keeps what a request without entries would be after this one.
func (p *Pipeline) note(req *raft.AppendEntriesRequest) {
	p.next, p.sent = *req, time.Now()
	if n := len(req.Entries); n > 0 {
		p.beats.noteEntries()
		p.next.PrevLogEntry, p.next.PrevLogTerm = req.Entries[n-1].Index, req.Entries[n-1].Term
		p.next.Entries = nil
		p.alone, p.wrote = p.sent.Sub(p.wrote) >= aloneAfter, p.sent
	}
}

// tellCommitted sends what the library sends when its CommitTimeout is over, a
// request without entries, as soon as there is news: at once when a caller on a
// follower waits for it, see forwarder.propose.
func (p *Pipeline) tellCommitted() {
	t := p.transport
	ctx, cancel := context.WithCancel(t.ending.ctx)
	defer cancel()
	t.ending.serving.Go(func() { <-p.Closed(); cancel() })
	for {
		select {
		case <-p.confirmed:
		case <-ctx.Done():
			return
		}
		stored := p.stored.Load()
		if t.replica.Applied.Wait(ctx, stored) != nil {
			return
		}
		for quiet := time.Duration(0); quiet < tellAfter && !p.lone() && t.Awaited.Value.Load() < stored && ctx.Err() == nil; quiet = p.quiet() {
			pause, cancel := context.WithTimeout(ctx, tellAfter-quiet)
			_ = t.Awaited.Wait(pause, stored) // Either way it is time to look again.
			cancel()
		}
		if _, err := p.Tell(); err != nil {
			return // The library will find out as well.
		}
	}
}

func (p *Pipeline) quiet() time.Duration {
	p.turn.Lock()
	defer p.turn.Unlock()
	return time.Since(p.sent)
}

func (p *Pipeline) lone() bool {
	p.turn.Lock()
	defer p.turn.Unlock()
	return p.alone
}

// Tell sends what is committed, up to the end of the last message, and returns
// what the follower was told. The follower need not have taken that message: as
// with any, it looks for its last entry, by index and term, before it believes
// what comes with it. What this pod has applied is committed in the log that it
// sent as long as it leads in the term of the message: afterwards it is a
// follower of another log, which may have other entries there. (Raft paper,
// figure 2; TestSentCommitIndexIsBounded, TestADeposedMasterTellsNothing, and
// TestTellCommitted for that it does tell.)
func (p *Pipeline) Tell() (told uint64, err error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	committed := min(p.transport.replica.Applied.Value.Load(), end(&p.next))
	if committed <= p.next.LeaderCommitIndex || !p.transport.leads(p.next.Term) {
		return p.next.LeaderCommitIndex, nil
	}
	req := p.next
	req.LeaderCommitIndex = committed
	_, err = p.send(&req, new(raft.AppendEntriesResponse))
	return p.next.LeaderCommitIndex, err
}
