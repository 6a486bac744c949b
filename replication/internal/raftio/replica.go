package raftio

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/peer"
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

// Replica is this pod's copy of the log, the library that drives it, and what
// both tell of the other members.
type Replica struct {
	Self       replication.MemberID
	Logger     *slog.Logger
	Raft       *raft.Raft
	Storage    Storage
	Transport  *Transport
	Acks       *Acks
	Views      *Views
	Membership *Membership
	Applied    *AppliedIndex
	Trail      *Trail
	// Leading is the library's word on whether this pod leads.
	Leading chan bool
	cancel  context.CancelFunc // of a flush that the library waits for
	ended   chan struct{}      // closed when Raft has
}

// Config are what a replica needs beside its storage.
type Config struct {
	Options *replication.Options
	Self    replication.MemberID
	Logger  *slog.Logger
	Port    *peer.Port
	Fail    func(error) // see Node.Failed
}

// Start starts Raft over st, which is closed after an error.
func Start(o Config, st Storage) (*Replica, error) {
	r := &Replica{
		Self: o.Self, Logger: o.Logger, Storage: st, Acks: newAcks(),
		Views: NewViews(o.Self, o.Options.Timing.Election), Membership: newMembership(st.Sm.Durable()),
		Applied: &AppliedIndex{}, Trail: &Trail{}, Leading: make(chan bool, 16), ended: make(chan struct{}),
	}
	r.Applied.Advance(st.Sm.Applied())
	if err := r.startRaft(o); err != nil {
		st.Close()
		return nil, err
	}
	return r, nil
}

func (r *Replica) startRaft(o Config) error {
	sm, log, proven := r.Storage.Sm, r.Storage.Log, &proven{}
	machine := &fsm{
		sm: sm, applied: r.Applied, trail: r.Trail, members: r.Membership.set,
		observe: o.Options.Observe, fail: o.Fail, logEnd: log.LastIndex, proven: proven,
	}
	machine.mark(sm.Applied())
	entries, err := newProvenLog(log, proven)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	store := &snapshots{ctx: ctx, sm: sm, dir: o.Options.Dir, hold: log.Hold, fsm: machine}
	r.Transport = newTransport(o, r, proven)
	r.Raft, err = raft.NewRaft(r.config(&o.Options.Timing), machine, entries, r.Storage.votes, store, r.Transport)
	if err != nil {
		cancel()
		r.Transport.Close()
		return fmt.Errorf("start raft: %w", err)
	}
	r.Transport.raft.Store(r.Raft)
	// The library stores what it proposes from the goroutine that changes its
	// membership, and steps down there, too, see Transport.SetHeartbeatHandler.
	// (TestNoOverlap, TestSyncWhileReplicating)
	log.Overlap(func() []string {
		if r.Raft.State() != raft.Leader {
			return nil
		}
		var others []string
		for _, id := range r.OtherVoters() {
			others = append(others, string(id))
		}
		return others
	})
	r.cancel = cancel
	return nil
}

func (r *Replica) config(t *replication.Timing) *raft.Config {
	return &raft.Config{
		ProtocolVersion:    raft.ProtocolVersionMax,
		HeartbeatTimeout:   t.Heartbeat,
		ElectionTimeout:    t.Election,
		LeaderLeaseTimeout: t.Lease,
		CommitTimeout:      t.Commit,
		MaxAppendEntries:   appendEntries,
		// Truncation goes by bytes, see truncate.
		TrailingLogs: 1, SnapshotInterval: never, SnapshotThreshold: math.MaxUint64,
		LocalID:                  raft.ServerID(r.Self),
		NotifyCh:                 r.Leading,
		Logger:                   slogger.New(r.Logger),
		NoSnapshotRestoreOnStart: true,
		NoLegacyTelemetry:        true,
	}
}

// Observe keeps the view up to date until ctx ends.
func (r *Replica) Observe(ctx context.Context) { r.Views.observe(r.Raft, ctx.Done()) }

// Truncate shortens the log when it is over its limit. The library's snapshot
// waits for the database to be on disk, and then cuts what the log lets it.
func (r *Replica) Truncate(ctx context.Context) {
	tick := time.NewTicker(truncateTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.Storage.Log.Over():
		case <-tick.C: // what was held may not be any more
			if !r.Storage.Log.IsOver() {
				continue
			}
		}
		if err := r.Await(r.Raft.Snapshot()); err != nil && ctx.Err() == nil {
			r.Logger.Debug("the log could not be truncated now", "error", err)
			sleep.For(ctx, time.Second)
		}
	}
}

// Configuration is the newest membership in the log, committed or not.
func (r *Replica) Configuration() raft.Configuration {
	return r.Raft.GetConfiguration().Configuration()
}

// OtherVoters are the voters beside this pod, by the newest membership.
func (r *Replica) OtherVoters() []replication.MemberID {
	return slices.DeleteFunc(Voters(r.Configuration()), func(id replication.MemberID) bool { return id == r.Self })
}

// Campaign makes this pod a candidate at once, as a master that hands over does
// (thesis, 3.10): without the pre-vote, and asking even those who still believe
// in a master for their votes. So nothing but the votes themselves keeps two
// masters out of one term, and one without what was committed out of any (paper,
// 5.2 and 5.4.1): they must be durable, and one in a term (TestAVoteIsOneStep,
// TestLostVotes, TestForgottenLogDoesNotVote). A lost election raises the term as
// well (TestAPodReturnsInANewerTerm).
func (r *Replica) Campaign() {
	if r.Raft.CurrentTerm() >= maxNumber {
		return // There is no next term, see policy.SpentTerm.
	}
	err := r.Transport.TimeoutNow(raft.ServerID(r.Self), raft.ServerAddress(r.Self), &raft.TimeoutNowRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax},
	}, &raft.TimeoutNowResponse{})
	if err != nil {
		r.Logger.Debug("standing for election", "error", err)
	}
}

// VerifyLeader asks for a round of heartbeats at once. Its own answer is of no use,
// see package readindex.
func (r *Replica) VerifyLeader() {
	r.Transport.beats.hurry()
	r.Raft.VerifyLeader()
}

// Stop ends Raft: nothing is applied, sent or answered after it. The storage is
// still open, see Storage.Close.
func (r *Replica) Stop() error {
	r.cancel()
	r.Transport.ending.cancel()
	defer close(r.ended)
	return r.Raft.Shutdown().Error()
}

// Await returns what became of something that Raft was asked to do. The library leaves
// out what was committed and still waits for the state machine when Raft ends
// (runFSM): this gives it raft.ErrRaftShutdown then. One goroutine may wait for f.
func (r *Replica) Await(f raft.Future) error {
	// Every future has such a channel; the library sets only some of them.
	if v := reflect.ValueOf(f); v.Kind() == reflect.Pointer {
		if ended := v.Elem().FieldByName("ShutdownCh"); ended.IsValid() && ended.IsNil() {
			ended.Set(reflect.ValueOf(r.ended))
		}
	}
	return f.Error()
}
