package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/batondb/baton/replication/internal/volume"
)

// engine is what runs between Start and Close: the replica, and around it what
// this pod writes, reads and knows.
type engine struct {
	self    MemberID
	timing  Timing
	logger  *slog.Logger
	conn    func(pod string) (*grpc.ClientConn, error)
	replica *replica
	router  *router
	reader  *reader
	sender  *cloneSender
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

func newEngine(n *Node, sm StateMachine) (*engine, error) {
	id := n.volume.Identity()
	if id.Stage == volume.Empty || id.ClusterID == "" {
		return nil, fmt.Errorf("%w: this pod has no data; Arrive must come before Start", ErrNotReady)
	}
	st, err := openStorage(&n.opts, n.logger, id, sm, n.fail)
	if err != nil {
		return nil, err
	}
	if err := n.volume.Update(func(id *volume.Identity) { id.Stage = volume.Data }); err != nil {
		st.close()
		return nil, err
	}
	self := MemberID(id.MemberID)
	r, err := startReplica(replicaOptions{Options: &n.opts, self: self, logger: n.logger, port: n.port, fail: n.fail}, st)
	if err != nil {
		return nil, err
	}
	e := &engine{self: self, timing: n.opts.Timing, logger: n.logger, conn: n.calls.conn, replica: r}
	e.router = newRouter(r, n.calls.conn, e.timing.Election, n.meter.proposals)
	e.reader = newReader(r, n.calls.conn, &n.opts, n.meter.readIndexes)
	e.sender = &cloneSender{replica: r, queued: e.router.proposer.queue.len, meter: n.meter.clones}
	e.changer = newMembershipChanger(r, e.timing.Lease, e.reader.confirmWithout, n.expected)
	return e, nil
}

// run starts the goroutines; stop waits for them.
func (e *engine) run(n *Node) {
	ctx, cancel := context.WithCancel(context.Background())
	e.workers.cancel = cancel
	joiner := newJoiner(n, e)
	detector := &failureDetector{replica: e.replica, timing: e.timing, port: n.port, inspect: n.inspect}
	for _, worker := range []func(context.Context){
		e.router.run,
		e.reader.run,
		joiner.run,
		joiner.catchUp,
		detector.run,
		e.replica.observe,
		e.replica.truncate,
		func(ctx context.Context) { e.followLeadership(ctx, n.opts.RunMaster, n.fail) },
		n.goOnRecloning,
		n.compareIdly,
	} {
		e.workers.running.Go(func() { worker(ctx) })
	}
}

func (e *engine) stop() error {
	e.workers.cancel()
	err := e.replica.stop()
	e.workers.running.Wait()
	e.replica.transport.wait()
	e.router.close()
	return errors.Join(err, e.replica.storage.close())
}
