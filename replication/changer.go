package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/internal/turn"
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
	replica *replica
	lease   time.Duration
	// confirmWithout returns nil when the others can commit without a member.
	confirmWithout func(ctx context.Context, id MemberID) error
	expected       func() (covers func(int) bool, known bool)
	wake           chan struct{}

	turn turn.Lock // Held from a decision until it is committed. It comes before mu.

	mu      sync.Mutex // guards the fields below
	joiners map[MemberID]joinRequest
	leavers map[MemberID]leaveRequest
	removed map[MemberID]bool // by this pod: a late request must not take them in again
	// unwanted is since when the members are known that should not exist.
	unwanted map[MemberID]time.Time
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

func newMembershipChanger(r *replica, lease time.Duration, confirmWithout func(context.Context, MemberID) error, expected func() (func(int) bool, bool)) *membershipChanger {
	return &membershipChanger{
		replica: r, lease: lease, confirmWithout: confirmWithout, expected: expected, wake: make(chan struct{}, 1), turn: turn.New(),
		joiners: map[MemberID]joinRequest{}, leavers: map[MemberID]leaveRequest{}, removed: map[MemberID]bool{},
		unwanted: map[MemberID]time.Time{},
	}
}

// join notes a request. The caller repeats it until it is a voter. Of a pod's
// incarnations only the last one that asked counts: the others are gone.
func (s *membershipChanger) join(id MemberID, index, commit uint64) {
	s.mu.Lock()
	if _, leaves := s.leavers[id]; leaves || s.removed[id] {
		s.mu.Unlock()
		return
	}
	maps.DeleteFunc(s.joiners, func(other MemberID, _ joinRequest) bool { return other != id && other.Pod() == id.Pod() })
	before, again := s.joiners[id]
	s.joiners[id] = joinRequest{asked: time.Now(), target: commit, caught: again && index >= before.target}
	s.mu.Unlock()
	s.kick()
}

// leave asks for a member's removal, or that of its vote, which is done some
// time later. Its own wish to join, from before, does not count any more.
func (s *membershipChanger) leave(id MemberID, reclone bool) {
	s.mu.Lock()
	s.leavers[id] = leaveRequest{time.Now(), reclone}
	delete(s.joiners, id)
	s.mu.Unlock()
	s.kick()
}

// without says that a member, or its vote, is neither in the committed
// membership nor in a later one, and that no change of this pod's is under way
// that was decided before it asked to leave.
func (s *membershipChanger) without(id MemberID, voteOnly bool) bool {
	s.turn.Lock()
	defer s.turn.Unlock()
	for _, c := range []raft.Configuration{s.replica.membership.now.Load().Configuration, s.replica.configuration()} {
		if m, member := server(c, id); member && (!voteOnly || m.Suffrage == raft.Voter) {
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
	c := s.situation().decide()
	if c.do == nothing {
		return false
	}
	if err := s.change(ctx, c); err != nil {
		s.replica.logger.Warn("a membership change failed; it will be tried again", "change", c.do, "of", c.id, "error", err)
		return false
	}
	s.replica.logger.Info("the membership changed", "change", c.do, "of", c.id, "because", c.because)
	return true
}

func (s *membershipChanger) change(ctx context.Context, c change) error {
	r, id, addr := s.replica.raft, raft.ServerID(c.id), raft.ServerAddress(c.id)
	switch c.do {
	case addLearner:
		return r.AddNonvoter(id, addr, 0, changeTimeout).Error()
	case promote:
		err := r.AddVoter(id, addr, 0, changeTimeout).Error()
		if err == nil {
			s.replica.storage.log.Release(string(c.id))
		}
		return err
	case demote:
		confirming, cancel := context.WithTimeout(ctx, 4*s.lease)
		defer cancel()
		if err := s.confirmWithout(confirming, c.id); err != nil {
			return err
		}
		return r.DemoteVoter(id, 0, changeTimeout).Error()
	case remove:
		s.mark(c.id, true)
		err := r.RemoveServer(id, 0, changeTimeout).Error()
		if err != nil {
			s.mark(c.id, false)
		}
		return err
	}
	return fmt.Errorf("no such change: %q", c.do)
}

// hasRemoved says that this pod has taken a member out, or is about to.
func (s *membershipChanger) hasRemoved(id MemberID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removed[id]
}

func (s *membershipChanger) mark(id MemberID, removed bool) {
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
type situation struct {
	self    MemberID
	servers []raft.Server
	joiners map[MemberID]bool // who asks; true: has caught up
	leavers map[MemberID]bool
	// reclones are those that have asked to lose their vote, for their data is of no use.
	reclones map[MemberID]bool
	alive    map[MemberID]bool
	covers   func(ordinal int) bool
	overdue  map[MemberID]bool // who should not exist, and had time to leave
}

// covers says which ordinals should exist: any may, while it is not known.
func (s *membershipChanger) covers() func(ordinal int) bool {
	if covers, known := s.expected(); known {
		return covers
	}
	return func(int) bool { return true }
}

func (s *membershipChanger) situation() situation {
	now := situation{
		self: s.replica.self, servers: s.replica.configuration().Servers,
		joiners: map[MemberID]bool{}, leavers: map[MemberID]bool{}, reclones: map[MemberID]bool{}, alive: map[MemberID]bool{}, overdue: map[MemberID]bool{},
		covers: s.covers(),
	}
	for _, m := range now.servers {
		id := MemberID(m.ID)
		now.alive[id] = id == s.replica.self || s.replica.acks.heard(id, 4*s.lease)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.joiners, func(_ MemberID, j joinRequest) bool { return time.Since(j.asked) > joinerFresh })
	maps.DeleteFunc(s.leavers, func(_ MemberID, l leaveRequest) bool { return time.Since(l.asked) > 10*joinerFresh })
	maps.DeleteFunc(s.unwanted, func(id MemberID, _ time.Time) bool { return now.covers(Ordinal(id.Pod())) })
	for _, m := range now.servers {
		id := MemberID(m.ID)
		if since, noted := s.unwanted[id]; noted {
			now.overdue[id] = time.Since(since) > unwantedGrace
		} else if !now.covers(Ordinal(id.Pod())) {
			s.unwanted[id] = time.Now()
		}
	}
	for id, j := range s.joiners {
		now.joiners[id] = j.caught
	}
	for id, l := range s.leavers {
		now.leavers[id], now.reclones[id] = !l.reclone, l.reclone
	}
	return now
}

const (
	nothing    = ""
	addLearner = "add learner"
	promote    = "promote"
	demote     = "demote"
	remove     = "remove"
)

// change is one step of the membership.
type change struct {
	do      string
	id      MemberID
	because string
}

// decide gives the next step, or nothing. It is the whole policy of membership:
//
//   - whoever left, or whose ordinal should not exist, is removed, the dead first;
//     the living have time to leave by themselves;
//   - whose data is of no use loses its vote, one pod at a time, see mustStay; it
//     stays a member until its pod's new disk takes its place, and so is what every
//     master to come counts by;
//   - who asks is added as a learner;
//   - a learner that has caught up, and that this pod hears too, replaces its pod's older incarnations: they
//     are removed before it is promoted, so that one pod never has two votes.
//
// A member is only removed if those who are alive remain a majority.
func (s situation) decide() change {
	for _, wantAlive := range []bool{false, true} {
		for _, m := range s.servers {
			id := MemberID(m.ID)
			because := "it left"
			if !s.leavers[id] {
				because = "its ordinal is no longer wanted"
			}
			gone := s.leavers[id] || !s.covers(Ordinal(id.Pod())) && (!s.alive[id] || s.overdue[id])
			if gone && id != s.self && s.alive[id] == wantAlive && s.canLose(id) {
				return change{remove, id, because}
			}
		}
	}
	for _, m := range s.servers {
		if id := MemberID(m.ID); id != s.self && s.reclones[id] && m.Suffrage == raft.Voter && s.mustStay(id) == "" {
			return change{demote, id, "its data is of no use, and the others can do without it"}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.joiners)) {
		if s.leavers[id] || s.reclones[id] || !s.covers(Ordinal(id.Pod())) {
			continue
		}
		m, member := server(raft.Configuration{Servers: s.servers}, id)
		switch {
		case !member:
			return change{addLearner, id, "it asks to join"}
		case m.Suffrage == raft.Voter || !s.joiners[id] || !s.alive[id]:
			// A pod may reach this one and not be reached by it: its vote would be
			// needed, and never come.
			continue
		}
		old, found := s.olderIncarnation(id)
		switch {
		case !found:
			return change{promote, id, "it has caught up"}
		case s.canLose(old):
			return change{remove, old, "the pod has a new disk: " + string(id)}
		}
	}
	return change{}
}

// mustStay says why a member must keep its data, of no use as it may be, and its
// vote; empty: it may lose them. All others must vote and answer: then no other
// pod is being replaced, and no vote is taken that may soon be needed.
func (s situation) mustStay(id MemberID) string {
	if m, member := server(raft.Configuration{Servers: s.servers}, id); !member || m.Suffrage != raft.Voter {
		return ""
	}
	if len(s.servers) == 1 {
		return "it is the only member"
	}
	for _, m := range s.servers {
		switch other := MemberID(m.ID); {
		case other == id:
		case m.Suffrage != raft.Voter:
			return fmt.Sprintf("%s does not vote yet: one pod is replaced at a time", other.Pod())
		case !s.alive[other]:
			return fmt.Sprintf("%s does not answer the master", other.Pod())
		}
	}
	return ""
}

func (s situation) olderIncarnation(id MemberID) (MemberID, bool) {
	for _, m := range s.servers {
		if other := MemberID(m.ID); other != id && other != s.self && other.Pod() == id.Pod() {
			return other, true
		}
	}
	return "", false
}

// canLose says whether the living voters without id are a majority without it.
func (s situation) canLose(id MemberID) bool {
	n, alive := 0, 0
	for _, m := range s.servers {
		if m.Suffrage != raft.Voter || MemberID(m.ID) == id {
			continue
		}
		n++
		if s.alive[MemberID(m.ID)] {
			alive++
		}
	}
	return alive > n/2
}
