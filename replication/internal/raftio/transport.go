package raftio

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/peer"
	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/batondb/baton/replication/internal/slogger"
)

// streams is the library's way to the peer port. An address is a member id.
type streams struct {
	port   *peer.Port
	addr   net.Addr
	closed chan struct{} // by Close, which is called once
}

// Accept implements net.Listener. There is never anything: see Transport.accept.
func (s *streams) Accept() (net.Conn, error) {
	<-s.closed
	return nil, net.ErrClosed
}

func (s *streams) Close() error   { close(s.closed); return nil }
func (s *streams) Addr() net.Addr { return s.addr }

func (s *streams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.port.DialMember(replication.MemberID(address), handshake.Raft, timeout)
}

// Transport is the library's network transport with pipelines of our own, see
// Pipeline. It notes when each member confirmed that it still follows, and waits
// for those who are away.
type Transport struct {
	*raft.NetworkTransport
	replica *Replica
	port    *peer.Port
	proven  *proven
	timing  replication.Timing
	// Awaited is the newest entry that somebody on a follower waits to see there.
	Awaited *AppliedIndex
	fail    func(error)
	doubts  doubts
	beats   *beats
	// raft is there once it has started.
	raft atomic.Pointer[raft.Raft]

	// received is what Raft gets from other members, and fast takes heartbeats.
	received chan raft.RPC
	fast     atomic.Pointer[func(raft.RPC)]
	ending   ending
}

// ending is what the end of a transport needs.
type ending struct {
	// ctx ends when nothing is to be received or waited for any more.
	ctx     context.Context
	cancel  context.CancelFunc
	serving sync.WaitGroup
}

func newTransport(o Config, r *Replica, p *proven) *Transport {
	t := &Transport{
		replica: r, port: o.Port, proven: p, timing: o.Options.Timing, Awaited: &AppliedIndex{}, fail: o.Fail, received: make(chan raft.RPC), beats: newBeats(o.Options.Timing),
	}
	t.ending.ctx, t.ending.cancel = context.WithCancel(context.Background())
	messages, pipelines := o.Port.Listen(handshake.Raft), o.Port.Listen(handshake.Append)
	t.NetworkTransport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: &streams{o.Port, messages.Addr(), make(chan struct{})}, Logger: slogger.New(o.Logger),
		MaxPool: 3, Timeout: o.Options.Timing.Transport,
	})
	// At least 64 KiB in each Timeout while a snapshot is sent.
	t.TimeoutScale = 64 << 10
	context.AfterFunc(t.ending.ctx, func() { messages.Close() })
	context.AfterFunc(t.ending.ctx, func() { pipelines.Close() })
	t.ending.serving.Go(func() { t.serve(pipelines) })
	t.ending.serving.Go(func() { t.accept(messages) })
	return t
}

// Wait returns when nothing is received or sent any more.
func (t *Transport) Wait() {
	t.CloseStreams()
	t.ending.serving.Wait()
}

// Consumer implements raft.Transport.
func (t *Transport) Consumer() <-chan raft.RPC { return t.received }

// Close implements raft.WithClose.
func (t *Transport) Close() error {
	t.ending.cancel()
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
func (t *Transport) SetHeartbeatHandler(fast func(raft.RPC)) {
	if fast == nil {
		t.fast.Store(nil)
		return
	}
	fast = t.heartbeats(fast)
	t.fast.Store(&fast)
}

func (t *Transport) heartbeats(fast func(raft.RPC)) func(raft.RPC) {
	return func(rpc raft.RPC) {
		r := t.raft.Load()
		if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && r != nil && req.Term <= r.CurrentTerm() {
			fast(rpc)
			return
		}
		t.give(rpc)
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
// its term is the one in which its sender led when it was made, and bound makes it claim no
// more than its own entries. (TestSentCommitIndexIsBounded,
// TestAPodReturnsInANewerTerm)
func (t *Transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(req) {
		t.beats.await(t.ending.ctx, t.replica.Acks.latest(replication.MemberID(id)))
	} else {
		bound(req)
		if err := t.check(req); err != nil {
			return err
		}
		t.replica.Acks.awaitReturn(replication.MemberID(id), t.ending.ctx.Done())
	}
	sent := time.Now()
	err := t.NetworkTransport.AppendEntries(id, to, req, resp)
	if err == nil {
		err = t.believable(id, resp.Term)
	}
	if err != nil {
		t.replica.Acks.lost(replication.MemberID(id))
		return err
	}
	t.replica.Acks.returned(replication.MemberID(id))
	if resp.Success && resp.Term == req.Term {
		t.replica.Acks.record(replication.MemberID(id), ack{req.Term, sent})
	}
	return t.await(replication.MemberID(id), req, resp)
}

// RequestVote implements raft.Transport.
func (t *Transport) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := t.NetworkTransport.RequestVote(id, to, req, resp); err != nil {
		return err
	}
	return t.believable(id, resp.Term)
}

// RequestPreVote implements raft.WithPreVote.
func (t *Transport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := t.NetworkTransport.RequestPreVote(id, to, req, resp); err != nil {
		return err
	}
	return t.believable(id, resp.Term)
}

// confirms says that an answer is one that entries are stored.
func confirms(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) bool {
	return resp.Success && len(req.Entries) > 0
}

// await notes what an answer confirms, and holds one that confirms entries back until
// it may be counted: see raftlog.Log.Overlap.
func (t *Transport) await(from replication.MemberID, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if resp.Success && resp.Term == req.Term {
		t.replica.Acks.store(from, match{req.Term, end(req)})
	}
	if !confirms(req, resp) {
		return nil
	}
	return t.replica.Storage.Log.Await(raftlog.Answer{Member: string(from), Term: resp.Term, Index: req.Entries[len(req.Entries)-1].Index})
}

// leads says that this pod leads in a term. Then all that it had applied before
// the call is in the log that it sends: a log of another leader would have been
// written, and applied, by a follower only.
func (t *Transport) leads(term uint64) bool {
	r := t.raft.Load()
	return r != nil && r.State() == raft.Leader && r.CurrentTerm() == term
}
