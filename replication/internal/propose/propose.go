package propose

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/raftio"
)

// Router takes commands to the log: to this pod's, when it is the master, or to
// the master's.
type Router struct {
	replica   *raftio.Replica
	Proposer  *proposer
	forwarder *forwarder
	check     func(*kvv1.Command) error // See replication.Options.CheckCommand.
}

// Connections are those to other pods.
type Connections interface {
	Conn(pod string) (*grpc.ClientConn, error)
	// Moved is closed when later ones are to be preferred.
	Moved() <-chan struct{}
}

// NewRouter makes a router over r. linger is how long the answers of a master that was
// replaced are waited for. check is for commands that were forwarded; nil: all pass.
func NewRouter(r *raftio.Replica, conns Connections, linger time.Duration, check func(*kvv1.Command) error, m Meter) *Router {
	return &Router{
		replica: r, Proposer: newProposer(r, m), check: check,
		forwarder: &forwarder{views: r.Views, conns: conns, queue: newQueue(), applied: r.Applied, linger: linger},
	}
}

// Run proposes and forwards until ctx ends.
func (r *Router) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { r.Proposer.run(ctx) })
	wg.Go(func() { r.forwarder.run(ctx) })
	wg.Wait()
}

// Propose puts a command into the log, see Node.Propose.
func (r *Router) Propose(ctx context.Context, c *kvv1.Command) (*kvv1.Result, error) {
	if size := commandSize(c); size > replication.MaxCommandBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", replication.ErrTooLarge, size, replication.MaxCommandBytes)
	}
	var w raftio.MasterWait
	for {
		v := r.replica.Views.Load()
		var result *kvv1.Result
		err := errNotProposed
		switch {
		case v.Leads:
			result, err = r.Proposer.propose(ctx, c)
		case v.Master != "":
			result, err = r.forwarder.propose(ctx, c)
		}
		if !errors.Is(err, errNotProposed) {
			return result, err
		}
		if err := w.Wait(ctx, r.replica.Views, v); err != nil {
			return nil, err
		}
	}
}

// ProposeAsMaster puts a command into this pod's log, see Node.ProposeAsMaster.
func (r *Router) ProposeAsMaster(ctx context.Context, c *kvv1.Command) (*kvv1.Result, error) {
	if !r.replica.Views.Load().Leads {
		return nil, replication.ErrNoMaster
	}
	result, err := r.Proposer.propose(ctx, c)
	if errors.Is(err, errNotProposed) {
		return nil, replication.ErrNoMaster
	}
	return result, err
}

// Queued commands wait to be proposed or forwarded.
func (r *Router) Queued() int { return r.Proposer.Queue.Len() + r.forwarder.queue.Len() }

// Refuse refuses new commands and lets those in flight end, until ctx ends.
func (r *Router) Refuse(ctx context.Context) {
	r.Proposer.Queue.drain(replication.ErrClosed, true)
	r.forwarder.queue.drain(replication.ErrClosed, true)
	r.Proposer.Pause(ctx)
}

// Close returns when everything that was proposed is answered. Run has ended, and
// so has Raft.
func (r *Router) Close() { r.Proposer.close() }
