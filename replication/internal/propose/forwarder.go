package propose

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

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
	conn    func(pod string) (*grpc.ClientConn, error)
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
		if v.Master != "" && !v.Leads {
			f.session(ctx, v)
		}
		// What is left was not sent; its callers look for the next master.
		f.queue.drain(errNotProposed, false)
	}
}

// session is one stream, to one master.
type session struct {
	stream   grpc.BidiStreamingClient[peerv1.ForwardRequest, peerv1.ForwardResponse]
	cancel   context.CancelFunc
	replaced chan struct{} // closed when another master is known
	broken   chan struct{} // closed when the stream has ended
	drained  chan struct{} // closed when nothing more is sent, and all is answered

	mu     sync.Mutex // guards the fields below
	sent   map[uint64]*Pending
	ending bool
}

// session sends to the master of v until there is another one, or the stream breaks.
func (f *forwarder) session(ctx context.Context, v *raftio.View) {
	conn, err := f.conn(v.Master.Pod())
	if err != nil {
		return
	}
	s := &session{
		replaced: make(chan struct{}), broken: make(chan struct{}), drained: make(chan struct{}),
		sent: map[uint64]*Pending{},
	}
	ctx, s.cancel = context.WithCancel(ctx)
	var opened atomic.Bool
	f.lingering.Go(func() {
		f.untilReplaced(ctx, v)
		close(s.replaced)
		if !opened.Load() {
			s.cancel() // a dial that hangs must not outlive its leadership
		}
	})
	s.stream, err = peerv1.NewPeerServiceClient(conn).Forward(ctx)
	if err != nil {
		s.cancel()
		return
	}
	opened.Store(true)
	f.lingering.Go(s.receive)
	f.queue.signal() // its token brought us here
	s.send(ctx, f.queue)
	f.lingering.Go(func() { s.end(ctx, f.linger) })
}

// end waits for the answers that are still to come. A master that hands over
// answers all that it has; they must not be lost to the news of the next one.
func (s *session) end(ctx context.Context, linger time.Duration) {
	s.mu.Lock()
	s.ending = true
	if len(s.sent) == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
	t := time.NewTimer(linger)
	defer t.Stop()
	select {
	case <-s.drained:
	case <-s.broken:
	case <-t.C:
	case <-ctx.Done():
	}
	s.cancel()
	<-s.broken
	for _, p := range s.sent {
		p.answer(nil, fmt.Errorf("%w: the connection to the master was lost", replication.ErrUnknown))
	}
}

// untilReplaced returns when another master is known. While none is, the old
// one's answers are still waited for: it may have stepped down only to lead again.
func (f *forwarder) untilReplaced(ctx context.Context, first *raftio.View) {
	for v := first; v.Master == "" || v.Master == first.Master && !v.Leads; v = f.views.Load() {
		select {
		case <-ctx.Done():
			return
		case <-v.Changed:
		}
	}
}

// send sends what is queued until the stream or ctx ends.
func (s *session) send(ctx context.Context, q *queue) {
	var burst []*Pending
	var id uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.broken:
			return
		case <-s.replaced:
			return
		case <-q.wake:
		}
		burst = q.take(burst[:0], forwardBurst, maxEntryBytes)
		s.mu.Lock()
		for _, p := range burst {
			id++
			p.id = id
			s.sent[id] = p
		}
		s.mu.Unlock()
		for i, p := range burst {
			// The answer may come, and p be used again, before Send returns.
			if err := s.stream.Send(&peerv1.ForwardRequest{Id: p.id, Command: p.command}); err != nil {
				s.unsent(burst[i+1:])
				return
			}
		}
	}
}

func (s *session) unsent(items []*Pending) {
	s.mu.Lock()
	for _, p := range items {
		delete(s.sent, p.id)
	}
	s.mu.Unlock()
	for _, p := range items {
		p.answer(nil, errNotProposed)
	}
}

func (s *session) receive() {
	defer close(s.broken)
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return
		}
		s.mu.Lock()
		p := s.sent[m.Id]
		delete(s.sent, m.Id)
		if s.ending && p != nil && len(s.sent) == 0 {
			close(s.drained)
		}
		s.mu.Unlock()
		switch o := m.Outcome.(type) {
		case nil:
		case *peerv1.ForwardResponse_Result:
			p.reply(o.Result, m.Index, nil)
		case *peerv1.ForwardResponse_Error:
			p.reply(nil, 0, fromWire(o.Error))
		}
	}
}

// reply answers, if the peer did not invent the id.
func (p *Pending) reply(r *kvv1.Result, index uint64, err error) {
	if p != nil {
		p.index = index
		p.answer(r, err)
	}
}
