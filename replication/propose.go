package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// router takes commands to the log: to this pod's, when it is the master, or to
// the master's.
type router struct {
	replica   *replica
	proposer  *proposer
	forwarder *forwarder
}

func newRouter(r *replica, conn func(pod string) (*grpc.ClientConn, error), linger time.Duration, m proposalMeter) *router {
	return &router{
		replica: r, proposer: newProposer(r.raft, r.transport.awaited, m),
		forwarder: &forwarder{views: r.views, conn: conn, queue: newQueue(), applied: r.applied, linger: linger},
	}
}

// run proposes and forwards until ctx ends.
func (r *router) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { r.proposer.run(ctx) })
	wg.Go(func() { r.forwarder.run(ctx) })
	wg.Wait()
}

// propose puts a command into the log, see Node.Propose.
func (r *router) propose(ctx context.Context, c *kvv1.Command) (*kvv1.Result, error) {
	if size := commandSize(c); size > MaxCommandBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, MaxCommandBytes)
	}
	var w masterWait
	for {
		v := r.replica.views.load()
		var result *kvv1.Result
		err := errNotProposed
		switch {
		case v.leads:
			result, err = r.proposer.propose(ctx, c)
		case v.master != "":
			result, err = r.forwarder.propose(ctx, c)
		}
		if !errors.Is(err, errNotProposed) {
			return result, err
		}
		if err := w.wait(ctx, r.replica.views, v); err != nil {
			return nil, err
		}
	}
}

// proposeAsMaster puts a command into this pod's log, see Node.ProposeAsMaster.
func (r *router) proposeAsMaster(ctx context.Context, c *kvv1.Command) (*kvv1.Result, error) {
	if !r.replica.views.load().leads {
		return nil, ErrNoMaster
	}
	result, err := r.proposer.propose(ctx, c)
	if errors.Is(err, errNotProposed) {
		return nil, ErrNoMaster
	}
	return result, err
}

// queued commands wait to be proposed or forwarded.
func (r *router) queued() int { return r.proposer.queue.len() + r.forwarder.queue.len() }

// refuse refuses new commands and lets those in flight end, until ctx ends.
func (r *router) refuse(ctx context.Context) {
	r.proposer.queue.drain(ErrClosed, true)
	r.forwarder.queue.drain(ErrClosed, true)
	r.proposer.pause(ctx)
}

// close returns when everything that was proposed is answered. Run has ended, and
// so has Raft.
func (r *router) close() { r.proposer.close() }
