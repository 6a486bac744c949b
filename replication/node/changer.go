package node

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/internal/turn"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
	"github.com/batondb/baton/replication/internal/raftio"
)

const (
	// joinerFresh is how long a join request counts: the joiner repeats it.
	joinerFresh = 2 * time.Second
	// changeTimeout bounds how long a membership change waits for its turn.
	changeTimeout = 5 * time.Second
	// unwantedGrace is how long a living member that should not exist is left to
	// leave by itself. Kubernetes stops one pod after the other, and none while a
	// lower one is not ready: removed before it is told to stop, a pod would turn
	// unready and hold up the others' stops for ever.
	unwantedGrace  = 2 * time.Minute
	membershipTick = time.Second
)

// membershipChanger changes the membership on the master, one change after the other,
// each committed before the next.
type membershipChanger struct {
	replica *raftio.Replica
	lease   time.Duration
	// confirmWithout returns nil when the others can commit without a member.
	confirmWithout func(ctx context.Context, id replication.MemberID) error
	wanted         func() policy.Wanted
	wake           chan struct{}

	turn turn.Lock // Held from a decision until it is committed. It comes before mu.

	mu      sync.Mutex // guards the fields below
	joiners map[replication.MemberID]joinRequest
	leavers map[replication.MemberID]leaveRequest
	removed map[replication.MemberID]bool // by this pod: a late request must not take them in again
	settled settled
	// unwanted is since when the members are known that should not exist.
	unwanted map[replication.MemberID]time.Time
}

// settled is a commit index from a while ago: whoever keeps up has stored it by
// now.
type settled struct {
	index, next uint64
	renewed     time.Time
}

func (s *settled) renew(committed uint64, after time.Duration) {
	if time.Since(s.renewed) > after {
		s.index, s.next, s.renewed = s.next, committed, time.Now()
	}
}

// joinRequest is a pod that asks to be taken in.
type joinRequest struct {
	asked time.Time
	// target is the commit index when it asked the last time: a joiner that
	// has it when it asks again is as far behind as one round of asking.
	target uint64
	caught bool
}

// leaveRequest is a member that asks to be taken out.
type leaveRequest struct {
	asked time.Time
	// reclone: only its vote, for its pod comes back with a new disk.
	reclone bool
}

func newMembershipChanger(r *raftio.Replica, lease time.Duration, confirmWithout func(context.Context, replication.MemberID) error, wanted func() policy.Wanted) *membershipChanger {
	return &membershipChanger{
		replica: r, lease: lease, confirmWithout: confirmWithout, wanted: wanted, wake: make(chan struct{}, 1), turn: turn.New(),
		joiners: map[replication.MemberID]joinRequest{}, leavers: map[replication.MemberID]leaveRequest{}, removed: map[replication.MemberID]bool{},
		unwanted: map[replication.MemberID]time.Time{},
	}
}

// join notes a request. The caller repeats it until it is a voter. Of a pod's
// incarnations only the last one that asked counts: the others are gone.
func (s *membershipChanger) join(id replication.MemberID, index, commit uint64) {
	s.mu.Lock()
	if _, leaves := s.leavers[id]; leaves || s.removed[id] {
		s.mu.Unlock()
		return
	}
	maps.DeleteFunc(s.joiners, func(other replication.MemberID, _ joinRequest) bool { return other != id && other.Pod() == id.Pod() })
	before, again := s.joiners[id]
	s.joiners[id] = joinRequest{asked: time.Now(), target: commit, caught: again && index >= before.target}
	s.mu.Unlock()
	s.kick()
}

// leave asks for a member, or only its vote, to be removed, which happens some
// time later. An earlier request of it to join no longer counts.
func (s *membershipChanger) leave(id replication.MemberID, reclone bool) {
	s.mu.Lock()
	s.leavers[id] = leaveRequest{time.Now(), reclone}
	delete(s.joiners, id)
	s.mu.Unlock()
	s.kick()
}

// without says that a member, or its vote, is neither in the committed
// membership nor in a later one, and that no change of this pod's is under way
// that was decided before it asked to leave.
func (s *membershipChanger) without(id replication.MemberID, voteOnly bool) bool {
	s.turn.Lock()
	defer s.turn.Unlock()
	for _, c := range []raft.Configuration{s.replica.Membership.Load().Configuration, s.replica.Configuration()} {
		if m, member := members(c).Find(id); member && (!voteOnly || m.Voter) {
			return false
		}
	}
	return true
}

func (s *membershipChanger) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *membershipChanger) run(ctx context.Context) {
	tick := time.NewTicker(membershipTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-tick.C:
		}
		for ctx.Err() == nil && s.step(ctx) {
		}
	}
}

// step makes the next change, and says whether there may be another.
func (s *membershipChanger) step(ctx context.Context) bool {
	s.turn.Lock()
	defer s.turn.Unlock()
	c := s.situation().Next()
	if c.Do == policy.Nothing {
		return false
	}
	if err := s.change(ctx, c); err != nil {
		s.replica.Logger.Warn("a membership change failed; it will be tried again", "change", c.Do, "of", c.Member, "error", err)
		return false
	}
	s.replica.Logger.Info("the membership changed", "change", c.Do, "of", c.Member, "because", c.Because)
	return true
}

func (s *membershipChanger) change(ctx context.Context, c policy.Change) error {
	r, id, addr := s.replica.Raft, raft.ServerID(c.Member), raft.ServerAddress(c.Member)
	switch c.Do {
	case policy.AddLearner:
		return s.replica.Await(r.AddNonvoter(id, addr, 0, changeTimeout))
	case policy.Promote:
		err := s.replica.Await(r.AddVoter(id, addr, 0, changeTimeout))
		if err == nil {
			s.replica.Storage.Log.Release(string(c.Member))
		}
		return err
	case policy.Demote:
		confirming, cancel := context.WithTimeout(ctx, 4*s.lease)
		defer cancel()
		if err := s.confirmWithout(confirming, c.Member); err != nil {
			return err
		}
		return s.replica.Await(r.DemoteVoter(id, 0, changeTimeout))
	case policy.Remove:
		s.mark(c.Member, true)
		err := s.replica.Await(r.RemoveServer(id, 0, changeTimeout))
		if err != nil {
			s.mark(c.Member, false)
		}
		return err
	}
	return fmt.Errorf("no such change: %q", c.Do)
}

// hasRemoved says that this pod has taken a member out, or is about to.
func (s *membershipChanger) hasRemoved(id replication.MemberID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removed[id]
}

func (s *membershipChanger) mark(id replication.MemberID, removed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.joiners, id)
	if removed {
		s.removed[id] = true
	} else {
		delete(s.removed, id)
	}
}

// situation is all that a membership decision depends on.
func (s *membershipChanger) situation() policy.Situation {
	now := policy.Situation{
		Self: s.replica.Self, Members: members(s.replica.Configuration()), Wanted: s.wanted(),
		Joining: map[replication.MemberID]bool{}, Leaving: map[replication.MemberID]bool{}, Recloning: map[replication.MemberID]bool{},
		Alive: map[replication.MemberID]bool{}, Behind: map[replication.MemberID]bool{}, Overdue: map[replication.MemberID]bool{},
	}
	for _, m := range now.Members {
		now.Alive[m.ID] = m.ID == s.replica.Self || s.replica.Acks.Heard(m.ID, 4*s.lease)
	}
	term := s.replica.Views.Load().Term
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled.renew(s.replica.Raft.CommitIndex(), 2*s.lease)
	for _, m := range now.Members {
		now.Behind[m.ID] = m.ID != s.replica.Self && !s.replica.Acks.Has(m.ID, term, s.settled.index)
	}
	maps.DeleteFunc(s.joiners, func(_ replication.MemberID, j joinRequest) bool { return time.Since(j.asked) > joinerFresh })
	maps.DeleteFunc(s.leavers, func(_ replication.MemberID, l leaveRequest) bool { return time.Since(l.asked) > 10*joinerFresh })
	excluded := func(id replication.MemberID) bool { return now.Wanted.Excludes(replication.Ordinal(id.Pod())) }
	maps.DeleteFunc(s.unwanted, func(id replication.MemberID, _ time.Time) bool { return !excluded(id) })
	for _, m := range now.Members {
		if since, noted := s.unwanted[m.ID]; noted {
			now.Overdue[m.ID] = time.Since(since) > unwantedGrace
		} else if excluded(m.ID) {
			s.unwanted[m.ID] = time.Now()
		}
	}
	for id, j := range s.joiners {
		now.Joining[id] = j.caught
	}
	for id, l := range s.leavers {
		now.Leaving[id], now.Recloning[id] = !l.reclone, l.reclone
	}
	return now
}
