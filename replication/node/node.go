package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/clone"
	"github.com/batondb/baton/replication/internal/peer"
	"github.com/batondb/baton/replication/internal/raftio"
	"github.com/batondb/baton/replication/internal/volume"
)

// Node is this pod's part in the cluster. All methods may be called by any
// goroutine; Open, Arrive, RegisterPeerService and Start in this order by one.
type Node struct {
	opts     replication.Options
	logger   *slog.Logger
	volume   *volume.Volume
	port     *peer.Port
	calls    *peer.Calls
	meter    *meter
	progress clone.Progress
	fate     fate

	// engine is there once Start has returned.
	engine atomic.Pointer[engine]

	answers  *peerService
	server   *peer.Server
	services []func(grpc.ServiceRegistrar) // beside answers
	denials  denials
}

// fate is how this member's part may end.
type fate struct {
	failed chan error
	once   sync.Once // the first failure
	// stopping: the process was told to end; nobody should hand the baton here.
	stopping atomic.Bool
	// leaving: this member is being removed because it asked to be.
	leaving atomic.Bool
	// useless is why the data is of no use, see condemned.
	useless atomic.Pointer[string]
}

// Open takes the volume's lock, reads or mints the identity and opens the peer
// port. It changes nothing else on the disk.
func Open(ctx context.Context, o replication.Options) (*Node, error) {
	if err := o.Complete(); err != nil {
		return nil, err
	}
	v, err := volume.Open(ctx, o.Dir, o.Name, o.Timing.LockWait, o.Logger)
	if err != nil {
		o.Listener.Close()
		return nil, err
	}
	n := &Node{opts: o, volume: v, meter: newMeter(), fate: fate{failed: make(chan error, 1)}}
	n.answers = &peerService{node: n, callers: callers{last: map[string]time.Time{}}}
	n.logger = o.Logger.With("member", v.Identity().MemberID)
	n.port = peer.NewPort(&n.opts, v.Identity, n.meter.handshakeRefused)
	n.calls = peer.NewCalls(n.port)
	if o.Registerer != nil {
		for _, c := range append(n.meter.all(), collector{n}) {
			if err := o.Registerer.Register(c); err != nil {
				n.Close(ctx)
				return nil, fmt.Errorf("metrics: %w", err)
			}
		}
	}
	n.serveCalls()
	return n, nil
}

// serveCalls answers the calls of peers. It is called again at Start, with the
// services that were registered meanwhile: gRPC takes none while it serves, and
// a pod must answer Inspect long before it has a database. Callers reconnect.
func (n *Node) serveCalls() {
	server := peer.StartServer(n.port, n.guards(), func(r grpc.ServiceRegistrar) {
		peerv1.RegisterPeerServiceServer(r, n.answers)
		for _, register := range n.services {
			register(r)
		}
	})
	n.server.Replaced()
	n.server = server
}

// RegisterPeerService adds a gRPC service to the peer port. Call it before Start.
func (n *Node) RegisterPeerService(register func(grpc.ServiceRegistrar)) {
	n.services = append(n.services, register)
}

// Start runs Raft over the opened database, and joins the cluster when this
// pod is not a member yet. The node uses sm until Close has returned. With
// ErrDamaged the log on disk is of no use: see Reclone.
func (n *Node) Start(sm replication.StateMachine) error {
	if n.engine.Load() != nil {
		return errors.New("replication: started twice")
	}
	e, err := newEngine(n, sm)
	if err != nil {
		return err
	}
	n.engine.Store(e)
	// Those that were made before this pod knew its cluster say so.
	n.calls.Renew()
	e.run(n)
	n.serveCalls()
	return nil
}

// Failed gives one error when the process must end: the log's disk failed or
// hangs, an entry must not be applied, this member was removed.
func (n *Node) Failed() <-chan error { return n.fate.failed }

// fail reports err, and falls silent: a master that cannot write must not keep
// the others from choosing another one.
func (n *Node) fail(err error) {
	n.fate.once.Do(func() {
		n.logger.Error("replication has failed; the process must end", "error", err)
		n.fate.failed <- err
		n.port.Close()
		if e := n.engine.Load(); e != nil {
			e.replica.Transport.CloseStreams()
		}
	})
}

// retire gives up this member's identity: its data is set aside by the next Open.
func (n *Node) retire(ctx context.Context, reason string) error {
	err := n.note(ctx, func(id *volume.Identity) { id.Retired = reason })
	if err != nil || n.fate.leaving.Load() {
		return err // to leave is what the pod wants, and waits for
	}
	err = fmt.Errorf("%w: %s; restart to begin as a new member, the data is kept beside it", replication.ErrRetired, reason)
	n.fail(err)
	return err
}

// Close stops Raft and closes the port and the files. It returns when all has
// ended, or with an error when ctx ends before. It hands nothing over: a master
// calls HandOver before.
func (n *Node) Close(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- n.teardown(n.engine.Load()) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return fmt.Errorf("replication did not end in time: %w", ctx.Err())
	}
}

func (n *Node) teardown(e *engine) error {
	if e != nil {
		// Without a quorum they end when the lease does.
		ending, cancel := context.WithTimeout(context.Background(), 4*e.timing.Election)
		e.replica.Views.Close()
		e.router.Refuse(ending)
		// Until the followers have learned of the next master, what they send here is
		// refused; cut off, nobody would know that it was not applied.
		n.answers.forwards.Wait(ending)
		cancel()
	}
	n.server.Stop()
	var err error
	if e != nil {
		e.sender.Close()
		err = e.stop()
	}
	n.port.Close()
	n.calls.Close()
	n.port.Wait()
	if n.opts.Registerer != nil {
		for _, c := range append(n.meter.all(), collector{n}) {
			n.opts.Registerer.Unregister(c)
		}
	}
	return errors.Join(err, n.volume.Close())
}

// PeerConn is a gRPC connection to a pod's peer port. The node closes it.
func (n *Node) PeerConn(pod string) (*grpc.ClientConn, error) { return n.calls.Conn(pod) }

// MasterConn is a connection to the master's peer port; nil when this pod is
// the master. It waits a moment for a master.
func (n *Node) MasterConn(ctx context.Context) (*grpc.ClientConn, error) {
	e := n.engine.Load()
	if e == nil {
		return nil, replication.ErrNotReady
	}
	var w raftio.MasterWait
	for {
		v := e.replica.Views.Load()
		switch {
		case v.Leads:
			return nil, nil
		case v.Master != "":
			return n.calls.Conn(v.Master.Pod())
		}
		if err := w.Wait(ctx, e.replica.Views, v); err != nil {
			return nil, err
		}
	}
}

// Propose puts a command into the log and returns what applying it gave. It
// works on any pod: a follower forwards to the master. A command that certainly
// was not proposed is tried again, with the next master, for about three
// seconds; then it is ErrNoMaster.
//
// The command must not be changed, not even afterwards.
func (n *Node) Propose(ctx context.Context, c *kvv1.Command) (*kvv1.Result, error) {
	e := n.engine.Load()
	if e == nil {
		return nil, replication.ErrNotReady
	}
	return e.router.Propose(ctx, c)
}

// ProposeAsMaster is Propose for what only the master may decide, such as the
// end of a lease: it is never forwarded. A pod that was the master when it
// decided, and is no more, gets ErrNoMaster, and nothing was applied.
func (n *Node) ProposeAsMaster(ctx context.Context, c *kvv1.Command) (*kvv1.Result, error) {
	e := n.engine.Load()
	if e == nil {
		return nil, replication.ErrNotReady
	}
	return e.router.ProposeAsMaster(ctx, c)
}

// LinearizableRead returns when this pod's copy shows every write that was
// acknowledged before the call, with ErrDiffers when this pod has applied
// something else than the master.
func (n *Node) LinearizableRead(ctx context.Context) error {
	e := n.engine.Load()
	if e == nil {
		return replication.ErrNotReady
	}
	return e.reader.Linearizable(ctx)
}

// BoundedRead returns when this pod's copy is at most maxStaleness old; with
// errors as LinearizableRead.
func (n *Node) BoundedRead(ctx context.Context, maxStaleness time.Duration) error {
	e := n.engine.Load()
	if e == nil {
		return replication.ErrNotReady
	}
	return e.reader.Bounded(ctx, maxStaleness)
}

// IsMaster says whether this pod is the master, and ready to lead.
func (n *Node) IsMaster() bool {
	e := n.engine.Load()
	return e != nil && e.replica.Views.Load().Ready
}

// Master is the pod that this one takes for the master.
func (n *Node) Master() (pod string, ok bool) {
	e := n.engine.Load()
	if e == nil {
		return "", false
	}
	m := e.replica.Views.Load().Master
	return m.Pod(), m != ""
}

// MasterChanged returns a channel that is closed when what this pod knows of the
// master is another than now; nil before Start.
func (n *Node) MasterChanged() <-chan struct{} {
	e := n.engine.Load()
	if e == nil {
		return nil
	}
	return e.replica.Views.Load().Changed
}

// Term is Raft's; 0 before Start.
func (n *Node) Term() uint64 {
	if e := n.engine.Load(); e != nil {
		return e.replica.Raft.CurrentTerm()
	}
	return 0
}

// ClusterID is the cluster's uuid; empty before this pod belongs to one.
func (n *Node) ClusterID() string { return n.volume.Identity().ClusterID }

// MemberID is this member's.
func (n *Node) MemberID() replication.MemberID {
	return replication.MemberID(n.volume.Identity().MemberID)
}
