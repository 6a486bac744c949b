package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/batondb/baton/replication/internal/slogger"
	"github.com/batondb/baton/replication/internal/volume"
)

const (
	// appendEntries bounds a message between members: entries are up to 1 MiB,
	// and a message must pass within Timing.Transport.
	appendEntries = 16
	// cachedEntries are kept in memory for the followers; 1 MiB each at most.
	cachedEntries = 32
	truncateTick  = 10 * time.Second
	never         = 365 * 24 * time.Hour
)

// engine is what runs between Start and Close: Raft, and around it what this
// pod writes, reads and knows. Its parts are embedded to be at hand; each has
// its own rules.
type engine struct {
	self    MemberID
	timing  Timing
	slog    *slog.Logger
	storage storage
	raft    *raft.Raft
	wire
	writing
	reading
	standing
	lifetime
}

// wire is the way to the other members.
type wire struct {
	transport *transport
	acks      *acks
	proven    *proven
	conn      func(pod string) (*grpc.ClientConn, error)
}

// writing takes commands to the log, here or on the master.
type writing struct {
	proposer  *proposer
	forwarder *forwarder
	handing   handing
}

// reading gets read indexes: confirms on the master, reads elsewhere.
type reading struct {
	confirms, reads *readIndexer
	applied         *appliedIndex
	trail           *trail
	differs         func(pod, why string) bool // see Options.Differs
}

// standing is what this pod knows of the cluster and of its place in it.
type standing struct {
	views      *views
	membership *membership
	changer    *membershipChanger
	// caught: this pod has once had all that was acknowledged before.
	caught atomic.Bool
	// cold: no master, because a quorum of pods does not exist yet.
	cold atomic.Bool
}

// lifetime is what the engine's end needs.
type lifetime struct {
	leading chan bool // the library's word on who leads
	workers sync.WaitGroup
	cancel  context.CancelFunc
	stopped chan struct{} // closed when nothing new is proposed
	answers chan struct{} // closed when the proposer has answered all
	fail    func(error)   // see Node.Failed
}

// storage is what the engine reads and writes.
type storage struct {
	sm    StateMachine
	log   *raftlog.Log
	votes *raftlog.Votes
}

func openStorage(n *Node, sm StateMachine) (storage, error) {
	o := &n.opts
	dir := filepath.Join(o.Dir, "raft")
	if err := removeSpools(o.Dir); err != nil {
		return storage{}, err
	}
	log, err := raftlog.Open(raftlog.Options{
		Dir: dir, Logger: slogger.New(n.log), VFS: o.LogFS,
		Limit: o.LogBytes, HoldLimit: o.LogHoldBytes, Hang: o.Timing.Hang, Failed: n.fail,
		Floor: func() uint64 { return sm.Durable().Index }, Applied: sm.Applied, Intact: intact,
	})
	if err != nil {
		return storage{}, err
	}
	votes, err := raftlog.OpenVotes(filepath.Join(dir, "vote.db"), o.Timing.Hang, n.fail, log.Settle)
	if err != nil {
		log.Close()
		return storage{}, fmt.Errorf("open the votes: %w", err)
	}
	votes.Committed = o.Committed
	return storage{sm, log, votes}, nil
}

func (s storage) close() error { return errors.Join(s.log.Close(), s.votes.Close()) }

// currentTerm is the library's name for the term.
var currentTerm = []byte("CurrentTerm")

// prepare makes log, votes and database fit together: the first entry of a new
// cluster, or a log that a received database has overtaken.
func (s storage) prepare(id volume.Identity) error {
	at := s.sm.Durable()
	if err := s.log.Reconcile(at.Index, at.Term); err != nil {
		return err
	}
	last, err := s.log.LastIndex()
	if err != nil {
		return err
	}
	term, err := s.votes.GetUint64(currentTerm)
	if err != nil && !errors.Is(err, raftlog.ErrNotFound) {
		return err
	}
	switch {
	case id.Stage == volume.Data && id.JoinedIndex > 0 && term < max(at.Term, 1):
		// It may have voted, and have acknowledged entries: it must do neither again.
		return fmt.Errorf("%w: the votes are gone", raftlog.ErrCorrupt)
	case term < at.Term:
		// A database that was received, or restored from a backup, on a disk
		// that has never voted.
		return s.votes.SetUint64(currentTerm, at.Term)
	case last > 0 || at.Index > 0:
		return nil
	case id.Stage != volume.Bootstrapping:
		return fmt.Errorf("%w: it is empty, and so is the database, though this disk had data", raftlog.ErrCorrupt)
	}
	// What raft.BootstrapCluster does, in steps that can be repeated
	// (TestBootstrapIsRepeatable). The first configuration is committed by being
	// the only member's (Raft thesis, 4.4).
	if err := s.votes.SetUint64(currentTerm, 1); err != nil {
		return err
	}
	self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(id.MemberID), Address: raft.ServerAddress(id.MemberID)}
	return s.log.StoreLog(&raft.Log{
		Index: 1, Term: 1, Type: raft.LogConfiguration,
		Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}}),
	})
}

func newEngine(n *Node, sm StateMachine) (*engine, error) {
	id := n.volume.Identity()
	if id.Stage == volume.Empty || id.ClusterID == "" {
		return nil, fmt.Errorf("%w: this pod has no data; Arrive must come before Start", ErrNotReady)
	}
	st, err := openStorage(n, sm)
	if err != nil {
		return nil, err
	}
	if err := st.prepare(id); err != nil {
		st.close()
		return nil, err
	}
	if err := n.volume.Update(func(id *volume.Identity) { id.Stage = volume.Data }); err != nil {
		st.close()
		return nil, err
	}
	e := &engine{self: MemberID(id.MemberID), timing: n.opts.Timing, slog: n.log, storage: st}
	e.acks, e.proven, e.conn = newAcks(), &proven{}, n.calls.conn
	e.views, e.membership = newViews(e.self), newMembership(sm.Durable())
	e.leading, e.stopped, e.answers = make(chan bool, 16), make(chan struct{}), make(chan struct{})
	e.fail = n.fail
	e.applied = &appliedIndex{}
	e.applied.advance(sm.Applied())
	e.trail, e.differs = &trail{}, n.opts.Differs
	if err := e.startRaft(n); err != nil {
		st.close()
		return nil, err
	}
	e.proposer = newProposer(e.raft, n.meter)
	e.forwarder = &forwarder{views: e.views, conn: n.calls.conn, queue: newQueue(), linger: e.timing.Election}
	e.confirms = newReadIndexer(n.meter, e.confirmIndex)
	e.reads = newReadIndexer(n.meter, e.askIndex)
	e.changer = newMembershipChanger(e, n.expected)
	return e, nil
}

func (e *engine) startRaft(n *Node) error {
	log := slogger.New(n.log)
	ctx, cancel := context.WithCancel(context.Background())
	machine := &fsm{sm: e.storage.sm, applied: e.applied, trail: e.trail, members: e.membership.set, observe: n.opts.Observe, fail: n.fail, logEnd: e.storage.log.LastIndex, proven: e.proven}
	machine.mark(e.storage.sm.Applied())
	store := &snapshots{ctx: ctx, sm: e.storage.sm, dir: n.opts.Dir, hold: e.storage.log.Hold, fsm: machine}
	entries, err := newProvenLog(e.storage.log, e.proven)
	if err != nil {
		cancel()
		return err
	}
	e.transport = newTransport(n, e)
	e.raft, err = raft.NewRaft(e.config(log), machine, entries, e.storage.votes, store, e.transport)
	if err != nil {
		cancel()
		e.transport.Close()
		return fmt.Errorf("start raft: %w", err)
	}
	e.transport.raft.Store(e.raft)
	// The library stores what it proposes from the goroutine that changes its
	// membership, and steps down there, too, see transport.SetHeartbeatHandler.
	// (TestNoOverlap, TestSyncWhileReplicating)
	e.storage.log.Overlap(func() []string {
		if e.raft.State() != raft.Leader {
			return nil
		}
		var others []string
		for _, id := range e.otherVoters() {
			others = append(others, string(id))
		}
		return others
	})
	e.cancel = cancel
	return nil
}

func (e *engine) config(log hclog.Logger) *raft.Config {
	return &raft.Config{
		ProtocolVersion:    raft.ProtocolVersionMax,
		HeartbeatTimeout:   e.timing.Heartbeat,
		ElectionTimeout:    e.timing.Election,
		LeaderLeaseTimeout: e.timing.Lease,
		CommitTimeout:      e.timing.Commit,
		MaxAppendEntries:   appendEntries,
		// Truncation goes by bytes, see truncate.
		TrailingLogs: 1, SnapshotInterval: never, SnapshotThreshold: math.MaxUint64,
		LocalID:                  raft.ServerID(e.self),
		NotifyCh:                 e.leading,
		Logger:                   log,
		NoSnapshotRestoreOnStart: true,
		NoLegacyTelemetry:        true,
	}
}

// run starts the goroutines; stop waits for them.
func (e *engine) run(n *Node) {
	ctx, cancel := context.WithCancel(context.Background())
	parent := e.cancel
	e.cancel = func() { cancel(); parent() }
	go func() {
		defer close(e.answers)
		e.proposer.finish()
	}()
	joiner := newJoiner(n, e)
	for _, worker := range []func(context.Context){
		e.proposer.run,
		e.forwarder.run,
		e.confirms.run,
		e.reads.run,
		joiner.run,
		joiner.catchUp,
		(&failureDetector{engine: e, port: n.port, inspect: n.inspect}).run,
		func(ctx context.Context) { e.views.observe(e.raft, ctx.Done()) },
		func(ctx context.Context) { e.followLeadership(ctx, n.opts.RunMaster) },
		e.truncate,
		n.goOnRecloning,
		n.compareIdly,
	} {
		e.workers.Go(func() { worker(ctx) })
	}
}

// truncate shortens the log when it is over its limit. The library's snapshot
// waits for the database to be on disk, and then cuts what the log lets it.
func (e *engine) truncate(ctx context.Context) {
	tick := time.NewTicker(truncateTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.storage.log.Over():
		case <-tick.C: // what was held may not be any more
			if !e.storage.log.IsOver() {
				continue
			}
		}
		if err := e.raft.Snapshot().Error(); err != nil && ctx.Err() == nil {
			e.slog.Debug("the log could not be truncated now", "error", err)
			sleep(ctx, time.Second)
		}
	}
}

// stopProposing refuses new commands and lets those in flight end.
func (e *engine) stopProposing() {
	close(e.stopped)
	e.proposer.queue.drain(ErrClosed, true)
	e.forwarder.queue.drain(ErrClosed, true)
	// Without a quorum they end when the lease does.
	ctx, cancel := context.WithTimeout(context.Background(), 4*e.timing.Election)
	defer cancel()
	e.proposer.pause(ctx)
}

func (e *engine) isStopped() bool {
	select {
	case <-e.stopped:
		return true
	default:
		return false
	}
}

func (e *engine) stop() error {
	e.cancel()
	e.transport.cancel()
	err := e.raft.Shutdown().Error()
	e.workers.Wait()
	e.transport.CloseStreams()
	e.transport.serving.Wait()
	close(e.proposer.inflight)
	<-e.answers
	return errors.Join(err, e.storage.close())
}
