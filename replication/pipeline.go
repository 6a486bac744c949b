package replication

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/internal/turn"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/logstream"
)

const (
	// tellAfter is how long a follower may not know that an entry is committed, when
	// no further entry tells it.
	tellAfter = 2 * time.Millisecond
	// aloneAfter is how long after the entry before it one comes alone: no next is
	// expected, so the follower is told of it at once. It is longer than what one
	// caller takes for write after write, who would have to wait for the news to
	// each follower and for what its watchers make of it.
	aloneAfter = 10 * time.Millisecond
)

// pipeline sends a follower entries before it has answered for the ones before,
// holds its answers back by await, and tells it soon what is committed.
//
// That a message was sent says nothing of the ones before it: the follower looks
// for the entry before each (Raft paper, 5.3), and after a refusal the pipeline
// ends (thesis, 10.2.1). An answer belongs to the message that it answers, by the
// order of the connection (TestAnswersInOrder, TestUnaskedAnswer), and counts
// when await lets it (TestConfirm, TestAcknowledgedWithoutTheMastersDisk).
type pipeline struct {
	*logstream.Pipeline
	check     func(*raft.AppendEntriesRequest) error
	stored    atomic.Uint64 // the newest entry that the follower is known to have
	confirmed chan struct{} // has a token after a change of stored

	turn  turn.Lock // One request at a time, also while there is no room; guards the fields below.
	next  raft.AppendEntriesRequest
	sent  time.Time // when the last request was,
	wrote time.Time // and the last one with entries;
	alone bool      // that one came aloneAfter or later after the one before
}

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(_ raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	conn, err := t.port.dialMember(MemberID(to), handshake.Append, t.timeout)
	if err != nil {
		return nil, err
	}
	p := &pipeline{check: t.check, confirmed: make(chan struct{}, 1), turn: turn.New()}
	p.Pipeline = logstream.NewPipeline(conn, t.timeout, func(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
		if !confirms(req, resp) {
			return nil
		}
		if err := t.await(MemberID(to), req, resp); err != nil {
			return err
		}
		p.stored.Store(req.Entries[len(req.Entries)-1].Index)
		select {
		case p.confirmed <- struct{}{}:
		default:
		}
		return nil
	})
	t.serving.Go(func() { p.tellCommitted(t) })
	return p, nil
}

// AppendEntries implements raft.AppendPipeline.
func (p *pipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	return p.send(req, resp)
}

func (p *pipeline) send(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	bound(req)
	if err := p.check(req); err != nil {
		return nil, err
	}
	p.note(req)
	return p.Pipeline.AppendEntries(req, resp)
}

// note keeps what a request without entries would be after this one.
func (p *pipeline) note(req *raft.AppendEntriesRequest) {
	p.next, p.sent = *req, time.Now()
	if n := len(req.Entries); n > 0 {
		p.next.PrevLogEntry, p.next.PrevLogTerm = req.Entries[n-1].Index, req.Entries[n-1].Term
		p.next.Entries = nil
		p.alone, p.wrote = p.sent.Sub(p.wrote) >= aloneAfter, p.sent
	}
}

// tellCommitted sends what the library sends when its CommitTimeout is over, a
// request without entries, as soon as there is news: at once when a caller on a
// follower waits for it, see forwarder.propose.
func (p *pipeline) tellCommitted(t *transport) {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	t.serving.Go(func() { <-p.Closed(); cancel() })
	for {
		select {
		case <-p.confirmed:
		case <-ctx.Done():
			return
		}
		stored := p.stored.Load()
		if t.applied.wait(ctx, stored) != nil {
			return
		}
		for quiet := time.Duration(0); quiet < tellAfter && !p.lone() && t.awaited.value.Load() < stored && ctx.Err() == nil; quiet = p.quiet() {
			pause, cancel := context.WithTimeout(ctx, tellAfter-quiet)
			_ = t.awaited.wait(pause, stored) // Either way it is time to look again.
			cancel()
		}
		if p.tell(t) != nil {
			return // The library will find out as well.
		}
	}
}

func (p *pipeline) quiet() time.Duration {
	p.turn.Lock()
	defer p.turn.Unlock()
	return time.Since(p.sent)
}

func (p *pipeline) lone() bool {
	p.turn.Lock()
	defer p.turn.Unlock()
	return p.alone
}

// tell sends what is committed, up to the end of the last message: the follower
// need not have taken that one, but it looks for its last entry, by index and
// term, before it believes what comes with it, as it does with any message. What
// this pod has applied is committed in the log that it sent as long as it leads in
// the term of the message: afterwards it is a follower of another log, which may
// have other entries there. (Raft paper, figure 2; TestSentCommitIndexIsBounded,
// TestADeposedMasterTellsNothing, and TestTellCommitted for that it does tell.)
func (p *pipeline) tell(t *transport) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	committed := min(t.applied.value.Load(), end(&p.next))
	if committed <= p.next.LeaderCommitIndex || !t.leads(p.next.Term) {
		return nil
	}
	req := p.next
	req.LeaderCommitIndex = committed
	_, err := p.send(&req, new(raft.AppendEntriesResponse))
	return err
}
