package replication

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/slogger"
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

// replica is this pod's copy of the log, the library that drives it, and what
// both tell of the other members.
type replica struct {
	self       MemberID
	logger     *slog.Logger
	raft       *raft.Raft
	storage    storage
	transport  *transport
	acks       *acks
	views      *views
	membership *membership
	applied    *appliedIndex
	trail      *trail
	// leading is the library's word on whether this pod leads.
	leading chan bool
	cancel  context.CancelFunc // of a flush that the library waits for
}

// replicaOptions are what a replica needs beside its storage.
type replicaOptions struct {
	*Options
	self   MemberID
	logger *slog.Logger
	port   *port
	fail   func(error) // see Node.Failed
}

// startReplica starts Raft over st, which is closed after an error.
func startReplica(o replicaOptions, st storage) (*replica, error) {
	r := &replica{
		self: o.self, logger: o.logger, storage: st, acks: newAcks(),
		views: newViews(o.self, o.Timing.Election), membership: newMembership(st.sm.Durable()),
		applied: &appliedIndex{}, trail: &trail{}, leading: make(chan bool, 16),
	}
	r.applied.advance(st.sm.Applied())
	if err := r.startRaft(o); err != nil {
		st.close()
		return nil, err
	}
	return r, nil
}

func (r *replica) startRaft(o replicaOptions) error {
	sm, log, proven := r.storage.sm, r.storage.log, &proven{}
	machine := &fsm{
		sm: sm, applied: r.applied, trail: r.trail, members: r.membership.set,
		observe: o.Observe, fail: o.fail, logEnd: log.LastIndex, proven: proven,
	}
	machine.mark(sm.Applied())
	entries, err := newProvenLog(log, proven)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	store := &snapshots{ctx: ctx, sm: sm, dir: o.Dir, hold: log.Hold, fsm: machine}
	r.transport = newTransport(o, r, proven)
	r.raft, err = raft.NewRaft(r.config(&o.Timing), machine, entries, r.storage.votes, store, r.transport)
	if err != nil {
		cancel()
		r.transport.Close()
		return fmt.Errorf("start raft: %w", err)
	}
	r.transport.raft.Store(r.raft)
	// The library stores what it proposes from the goroutine that changes its
	// membership, and steps down there, too, see transport.SetHeartbeatHandler.
	// (TestNoOverlap, TestSyncWhileReplicating)
	log.Overlap(func() []string {
		if r.raft.State() != raft.Leader {
			return nil
		}
		var others []string
		for _, id := range r.otherVoters() {
			others = append(others, string(id))
		}
		return others
	})
	r.cancel = cancel
	return nil
}

func (r *replica) config(t *Timing) *raft.Config {
	return &raft.Config{
		ProtocolVersion:    raft.ProtocolVersionMax,
		HeartbeatTimeout:   t.Heartbeat,
		ElectionTimeout:    t.Election,
		LeaderLeaseTimeout: t.Lease,
		CommitTimeout:      t.Commit,
		MaxAppendEntries:   appendEntries,
		// Truncation goes by bytes, see truncate.
		TrailingLogs: 1, SnapshotInterval: never, SnapshotThreshold: math.MaxUint64,
		LocalID:                  raft.ServerID(r.self),
		NotifyCh:                 r.leading,
		Logger:                   hclog.Logger(slogger.New(r.logger)),
		NoSnapshotRestoreOnStart: true,
		NoLegacyTelemetry:        true,
	}
}

// observe keeps the view up to date until ctx ends.
func (r *replica) observe(ctx context.Context) { r.views.observe(r.raft, ctx.Done()) }

// truncate shortens the log when it is over its limit. The library's snapshot
// waits for the database to be on disk, and then cuts what the log lets it.
func (r *replica) truncate(ctx context.Context) {
	tick := time.NewTicker(truncateTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.storage.log.Over():
		case <-tick.C: // what was held may not be any more
			if !r.storage.log.IsOver() {
				continue
			}
		}
		if err := r.raft.Snapshot().Error(); err != nil && ctx.Err() == nil {
			r.logger.Debug("the log could not be truncated now", "error", err)
			sleep(ctx, time.Second)
		}
	}
}

// configuration is the newest membership in the log, committed or not.
func (r *replica) configuration() raft.Configuration {
	return r.raft.GetConfiguration().Configuration()
}

// otherVoters are the voters beside this pod, by the newest membership.
func (r *replica) otherVoters() []MemberID {
	return slices.DeleteFunc(voters(r.configuration()), func(id MemberID) bool { return id == r.self })
}

// campaign makes this pod a candidate at once, as a master that hands over does
// (thesis, 3.10): without the pre-vote, and asking for the votes of those, too, who
// still believe in a master. So nothing but the votes themselves keeps two masters
// out of one term, and one without what was committed out of any (paper, 5.2 and
// 5.4.1): they must be durable, and one in a term (TestAVoteIsOneStep, TestLostVotes,
// TestForgottenLogDoesNotVote). It also raises the term when it is in vain
// (TestAPodReturnsInANewerTerm).
func (r *replica) campaign() {
	err := r.transport.TimeoutNow(raft.ServerID(r.self), raft.ServerAddress(r.self), &raft.TimeoutNowRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax},
	}, &raft.TimeoutNowResponse{})
	if err != nil {
		r.logger.Debug("standing for election", "error", err)
	}
}

// stop ends Raft: nothing is applied, sent or answered after it. The storage is
// still open, see storage.close.
func (r *replica) stop() error {
	r.cancel()
	r.transport.cancel()
	return r.raft.Shutdown().Error()
}
