package propose

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/internal/masterstream"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/raftio"
)

// forwarder sends a follower's commands to the master: many callers, one
// stream. A command whose answer does not come is unknown, for the stream may
// have broken after it was applied.
type forwarder struct {
	views   *raftio.Views
	conns   Connections
	queue   *queue
	applied *raftio.AppliedIndex
	// linger is how long the answers of a master that was replaced are waited for.
	linger    time.Duration
	lingering sync.WaitGroup
}

const (
	// forwardBurst is how many commands are taken from the queue at once.
	forwardBurst = 256
	// showWithin bounds how long an answer waits until this pod has applied what
	// it answers. A pod that is further behind does not hold up its writers: the
	// write is done, and a linearizable read finds it.
	showWithin = 500 * time.Millisecond
)

// propose returns what the master answers, once this pod shows the write as well:
// whoever reads here afterwards, without asking the master, expects it.
// (TestAForwardedWriteIsSeenWhereItWasSent)
func (f *forwarder) propose(ctx context.Context, c *kvv1.Command) (*kvv1.Result, error) {
	p := pendings.Get().(*Pending)
	p.command, p.size = c, commandSize(c)
	if err := f.queue.push(p); err != nil {
		p.release()
		return nil, err
	}
	result, index, err := p.await(ctx, f.queue)
	if err == nil && f.applied.Value.Load() < index {
		ctx, cancel := context.WithTimeout(ctx, showWithin)
		defer cancel()
		_ = f.applied.Wait(ctx, index) // It is done, whether or not it is here.
	}
	return result, err
}

// run keeps a stream to the master while there is something to send.
func (f *forwarder) run(ctx context.Context) {
	defer f.lingering.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.queue.wake:
		}
		v := f.views.Load()
		for v.Master != "" && !v.Leads && f.session(ctx, v) {
			v = f.views.Load()
		}
		// What is left was not sent; its callers look for the next master.
		f.queue.drain(errNotProposed, false)
	}
}

// session sends to the master of v until there is another one, or another way to it, or the
// stream breaks. It returns true if what is left goes another way.
func (f *forwarder) session(ctx context.Context, v *raftio.View) (again bool) {
	moved := f.conns.Moved()
	conn, err := f.conns.Conn(v.Master.Pod())
	if err != nil {
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	replaced := make(chan struct{})
	var opened atomic.Bool
	f.lingering.Go(func() {
		f.untilReplaced(ctx, v, moved)
		close(replaced)
		if !opened.Load() {
			cancel() // a dial that hangs must not outlive its leadership
		}
	})
	stream, err := peerv1.NewPeerServiceClient(conn).Forward(ctx)
	if err != nil {
		cancel()
		return closed(moved)
	}
	opened.Store(true)
	f.queue.signal() // its token brought us here
	s := masterstream.Session[*Pending, peerv1.ForwardRequest, peerv1.ForwardResponse]{
		Calls: &forwards{queue: f.queue, sent: map[uint64]*Pending{}}, Stream: stream, Cancel: cancel, Linger: f.linger,
	}
	s.Run(ctx, replaced, &f.lingering)
	return closed(moved)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// untilReplaced returns when another master is known, or another way to it. While none is, the old
// one's answers are still waited for: it may have stepped down only to lead again.
func (f *forwarder) untilReplaced(ctx context.Context, first *raftio.View, moved <-chan struct{}) {
	for v := first; v.Master == "" || v.Master == first.Master && !v.Leads; v = f.views.Load() {
		select {
		case <-ctx.Done():
			return
		case <-moved:
			return
		case <-v.Changed:
		}
	}
}

// forwards implements masterstream.Calls for one stream.
type forwards struct {
	queue *queue
	id    uint64 // The last one given.
	sent  map[uint64]*Pending
}

func (f *forwards) Next(ctx context.Context, into []*Pending) []*Pending {
	for len(into) == 0 {
		select {
		case <-ctx.Done():
			return into
		case <-f.queue.wake:
			if ctx.Err() != nil {
				return into // Whoever is in the queue was not sent, for sure.
			}
		}
		into = f.queue.take(into, forwardBurst, maxEntryBytes)
	}
	return into
}

func (f *forwards) Request(p *Pending) *peerv1.ForwardRequest {
	return &peerv1.ForwardRequest{Id: p.id, Command: p.command}
}

func (f *forwards) Add(p *Pending) {
	f.id++
	p.id = f.id
	f.sent[p.id] = p
}

func (f *forwards) Remove(p *Pending) { delete(f.sent, p.id) }

func (f *forwards) Match(m *peerv1.ForwardResponse) (*Pending, bool) {
	p, sent := f.sent[m.Id]
	delete(f.sent, m.Id)
	return p, sent
}

func (f *forwards) Rest() []*Pending { return slices.Collect(maps.Values(f.sent)) }

func (f *forwards) Answer(p *Pending, m *peerv1.ForwardResponse) {
	p.index = m.Index
	switch o := m.Outcome.(type) {
	case *peerv1.ForwardResponse_Result:
		p.answer(o.Result, nil)
	case *peerv1.ForwardResponse_Error:
		p.answer(nil, fromWire(o.Error))
	default:
		p.answer(nil, fmt.Errorf("%w: the master's answer has no outcome", replication.ErrUnknown))
	}
}

func (f *forwards) Unsent(p *Pending) { p.answer(nil, errNotProposed) }

func (f *forwards) Lost(p *Pending, _ error) {
	p.answer(nil, fmt.Errorf("%w: the connection to the master was lost", replication.ErrUnknown))
}
