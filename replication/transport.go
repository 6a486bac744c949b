package replication

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/batondb/baton/replication/internal/slogger"
)

// streams is the library's way to the peer port. An address is a member id.
type streams struct {
	*acceptor
	port *port
}

func (s *streams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.port.dialMember(MemberID(address), handshake.Raft, timeout)
}

// transport is the library's network transport, but for the pipelines, see
// pipeline. It notes when each member confirmed that it still follows, and waits
// for those who are away.
type transport struct {
	*raft.NetworkTransport
	port    *port
	logger  *slog.Logger
	timeout time.Duration
	acks    *acks
	proven  *proven
	log     *raftlog.Log
	// applied is what this pod has applied, and so certainly is committed.
	applied *appliedIndex
	// awaited is the newest entry that somebody on a follower waits to see there.
	awaited *appliedIndex
	durable func() Position
	fail    func(error)
	audit   func(context.Context) error // see InstallSnapshot

	auditing sync.Mutex // guards audited
	audited  time.Time
	// raft is there once it has started.
	raft atomic.Pointer[raft.Raft]

	// received is what Raft gets from other members.
	received chan raft.RPC
	// ctx ends when nothing is to be received or waited for any more.
	ctx     context.Context
	cancel  context.CancelFunc
	serving sync.WaitGroup
}

func newTransport(o replicaOptions, r *replica, p *proven) *transport {
	t := &transport{
		port: o.port, logger: o.logger, timeout: o.Timing.Transport, fail: o.fail,
		acks: r.acks, proven: p, log: r.storage.log, applied: r.applied, awaited: &appliedIndex{},
		durable: r.storage.sm.Durable, audit: r.storage.sm.Check, received: make(chan raft.RPC),
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: &streams{o.port.listen(handshake.Raft), o.port}, Logger: slogger.New(o.logger),
			MaxPool: 3, Timeout: o.Timing.Transport,
		}),
	}
	// At least 64 KiB in each Timeout while a snapshot is sent.
	t.TimeoutScale = 64 << 10
	t.ctx, t.cancel = context.WithCancel(context.Background())
	pipelines := o.port.listen(handshake.Append)
	context.AfterFunc(t.ctx, func() { pipelines.Close() })
	t.serving.Go(func() { t.serve(pipelines) })
	t.serving.Go(t.relay)
	return t
}

// wait returns when nothing is received or sent any more.
func (t *transport) wait() {
	t.CloseStreams()
	t.serving.Wait()
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.received }

// Close implements raft.WithClose.
func (t *transport) Close() error {
	t.cancel()
	return t.NetworkTransport.Close()
}

// SetHeartbeatHandler implements raft.Transport.
//
// The library takes heartbeats on the goroutine of their connection, so that they
// do not wait for its disk. One of a newer term ends a leadership there: state and term
// change, while the goroutine that proposes may be about to store an entry; it
// stores it under the new term, at an index where the new master has another, and
// takes that for a copy of its own. (One entry for an index and a term: "log
// matching", Raft paper, 5.3.) So such a heartbeat goes the way of all other
// messages. (TestAHeartbeatOfANewerTermWaitsItsTurn)
func (t *transport) SetHeartbeatHandler(fast func(raft.RPC)) {
	if fast != nil {
		fast = t.heartbeats(fast)
	}
	t.NetworkTransport.SetHeartbeatHandler(fast)
}

func (t *transport) heartbeats(fast func(raft.RPC)) func(raft.RPC) {
	return func(rpc raft.RPC) {
		r := t.raft.Load()
		if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && r != nil && req.Term <= r.CurrentTerm() {
			fast(rpc)
			return
		}
		select {
		case t.received <- rpc:
		case <-t.ctx.Done():
		}
	}
}

// awayFor bounds a wait for a member that is away: it may have been removed.
const awayFor = 30 * time.Second

// AppendEntries implements raft.Transport; heartbeats come through here.
//
// The library lets up to ten seconds pass between attempts to replicate to a
// member that is away, and so before it notices one that is back. Heartbeats
// go on all the time: replication waits for one of them to be answered.
//
// Raft lets any message take any time (paper, 2), if it is true whenever it comes:
// its term is that of its leadership in which it was made, and bound makes it claim no
// more than its own entries. (TestSentCommitIndexIsBounded,
// TestAPodReturnsInANewerTerm)
func (t *transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	heartbeat := req.PrevLogEntry == 0 && len(req.Entries) == 0 && req.LeaderCommitIndex == 0
	if !heartbeat {
		bound(req)
		if err := t.check(req); err != nil {
			return err
		}
		t.acks.awaitReturn(MemberID(id), t.ctx.Done())
	}
	sent := time.Now()
	err := t.NetworkTransport.AppendEntries(id, to, req, resp)
	if err != nil {
		t.acks.lost(MemberID(id))
		return err
	}
	t.acks.returned(MemberID(id))
	if resp.Success && resp.Term == req.Term {
		t.acks.record(MemberID(id), ack{req.Term, sent})
	}
	if !confirms(req, resp) {
		return nil
	}
	return t.await(MemberID(id), req, resp)
}

// confirms says that an answer is one that entries are stored.
func confirms(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) bool {
	return resp.Success && len(req.Entries) > 0
}

// await holds an answer that confirms entries back until it may be counted: see
// raftlog.Log.Overlap.
func (t *transport) await(from MemberID, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return t.log.Await(raftlog.Answer{Member: string(from), Term: resp.Term, Index: req.Entries[len(req.Entries)-1].Index})
}

// leads says that this pod leads in a term. Then all that it had applied before
// the call is in the log that it sends: a log of another leader would have been
// written, and applied, by a follower only.
func (t *transport) leads(term uint64) bool {
	r := t.raft.Load()
	return r != nil && r.State() == raft.Leader && r.CurrentTerm() == term
}

// ack says that a member was in term when it got a message sent at sent.
type ack struct {
	term uint64
	sent time.Time
}

// acks remembers the newest ack of each member.
type acks struct {
	changed chan struct{} // has a token after a change; one waiter

	mu     sync.Mutex // guards the fields below
	newest map[MemberID]ack
	away   map[MemberID]chan struct{} // closed at the next answer
}

func newAcks() *acks {
	return &acks{changed: make(chan struct{}, 1), newest: map[MemberID]ack{}, away: map[MemberID]chan struct{}{}}
}

// lost notes that a member does not answer.
func (a *acks) lost(id MemberID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away[id] == nil {
		a.away[id] = make(chan struct{})
	}
}

// returned notes that a member answers, whatever it says: of a newer term the
// library learns by what waits here.
func (a *acks) returned(id MemberID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if back := a.away[id]; back != nil {
		close(back)
		delete(a.away, id)
	}
}

// awaitReturn waits while a member is away, at most awayFor: see
// transport.AppendEntries.
func (a *acks) awaitReturn(id MemberID, ended <-chan struct{}) {
	a.mu.Lock()
	back := a.away[id]
	a.mu.Unlock()
	if back == nil {
		return
	}
	t := time.NewTimer(awayFor)
	defer t.Stop()
	select {
	case <-back:
	case <-ended:
	case <-t.C:
	}
}

func (a *acks) record(id MemberID, k ack) {
	a.mu.Lock()
	a.newest[id] = k
	a.mu.Unlock()
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// confirmed says whether a majority of voters, self taken for granted, were in
// term at a moment after since.
func (a *acks) confirmed(self MemberID, voters []MemberID, term uint64, since time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, id := range voters {
		k := a.newest[id]
		if id == self || k.term == term && !k.sent.Before(since) {
			n++
		}
	}
	return n > len(voters)/2
}

// heard says whether a member confirmed within d.
func (a *acks) heard(id MemberID, d time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(a.newest[id].sent) < d
}
