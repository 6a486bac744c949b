package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/clone"
	"github.com/batondb/baton/replication/internal/propose"
	"github.com/batondb/baton/replication/internal/raftio"
	"github.com/batondb/baton/replication/internal/readindex"
	"github.com/batondb/baton/replication/internal/volume"
)

// engine is what runs between Start and Close: the replica, and around it what
// this pod writes, reads and knows.
type engine struct {
	self    replication.MemberID
	timing  replication.Timing
	logger  *slog.Logger
	conn    func(pod string) (*grpc.ClientConn, error)
	replica *raftio.Replica
	router  *propose.Router
	reader  *readindex.Reader
	sender  *clone.Sender
	changer *membershipChanger
	handing handing
	// caught: this pod has once had all that was acknowledged before.
	caught atomic.Bool
	// cold: no master, because a quorum of pods does not exist yet.
	cold    atomic.Bool
	workers workers
}

// workers are the goroutines of an engine.
type workers struct {
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func newEngine(n *Node, sm replication.StateMachine) (*engine, error) {
	id := n.volume.Identity()
	if id.Stage == volume.Empty || id.ClusterID == "" {
		return nil, fmt.Errorf("%w: this pod has no data; Arrive must come before Start", replication.ErrNotReady)
	}
	st, err := raftio.OpenStorage(&n.opts, n.logger, id, sm, n.fail)
	if err != nil {
		return nil, err
	}
	if err := n.volume.Update(func(id *volume.Identity) { id.Stage = volume.Data }); err != nil {
		st.Close()
		return nil, err
	}
	self := replication.MemberID(id.MemberID)
	r, err := raftio.Start(raftio.Config{Options: &n.opts, Self: self, Logger: n.logger, Port: n.port, Fail: n.fail}, st)
	if err != nil {
		return nil, err
	}
	e := &engine{self: self, timing: n.opts.Timing, logger: n.logger, conn: n.calls.Conn, replica: r}
	e.router = propose.NewRouter(r, n.calls, e.timing.Election, n.opts.CheckCommand, n.meter.proposals)
	e.reader = readindex.NewReader(r, n.calls.Conn, &n.opts, n.meter.readIndexes)
	e.sender = &clone.Sender{Replica: r, Queued: e.router.Proposer.Queue.Len, Meter: n.meter.clones}
	e.changer = newMembershipChanger(r, e.timing.Lease, e.reader.ConfirmWithout, n.wanted)
	return e, nil
}

// run starts the goroutines; stop waits for them.
func (e *engine) run(n *Node) {
	ctx, cancel := context.WithCancel(context.Background())
	e.workers.cancel = cancel
	joiner := newJoiner(n, e)
	for _, worker := range []func(context.Context){
		e.router.Run,
		e.reader.Run,
		joiner.run,
		joiner.catchUp,
		newFailureDetector(n, e).run,
		e.replica.Observe,
		e.replica.Truncate,
		func(ctx context.Context) { e.followLeadership(ctx, n.opts.RunMaster, n.fail) },
		n.goOnRecloning,
		n.recloneIfStranded,
		n.compareIdly,
	} {
		e.workers.running.Go(func() { worker(ctx) })
	}
}

func (e *engine) stop() error {
	e.workers.cancel()
	err := e.replica.Stop()
	e.workers.running.Wait()
	e.replica.Transport.Wait()
	e.router.Close()
	return errors.Join(err, e.replica.Storage.Close())
}
