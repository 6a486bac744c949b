package policy

import (
	"fmt"
	"maps"
	"slices"

	"github.com/batondb/baton/replication"
)

// What the master does with the membership.
const (
	Nothing    = ""
	AddLearner = "add learner"
	Promote    = "promote"
	Demote     = "demote"
	Remove     = "remove"
)

// Change is one step of the membership.
type Change struct {
	Do      string
	Member  replication.MemberID
	Because string
}

// Situation is all that a membership decision depends on.
type Situation struct {
	// Self is the master.
	Self    replication.MemberID
	Members Members
	// Joining are those who ask to be taken in; true: it has caught up.
	Joining map[replication.MemberID]bool
	Leaving map[replication.MemberID]bool
	// Recloning have asked to lose their vote, for their data is of no use.
	Recloning map[replication.MemberID]bool
	Alive     map[replication.MemberID]bool
	// Behind are those who have not stored what was committed a while ago.
	Behind map[replication.MemberID]bool
	Wanted Wanted
	// Overdue are those who should not exist, and had time to leave.
	Overdue map[replication.MemberID]bool
}

// Next gives the next step, or nothing. It is the whole policy of membership:
//
//   - whoever left, or whose ordinal should not exist, is removed, the dead first;
//     the living have time to leave by themselves;
//   - whose data is of no use loses its vote, one pod at a time, see MustStay; it
//     stays a member until its pod's new disk takes its place, and so is what every
//     master to come counts by;
//   - who asks is added as a learner;
//   - a learner that has caught up, and that the master hears too, replaces its
//     pod's older incarnations: they are removed before it is promoted, so that one
//     pod never has two votes.
//
// A member is only removed if those who are alive remain a majority.
func (s Situation) Next() Change {
	if c := s.removal(); c.Do != Nothing {
		return c
	}
	for _, m := range s.Members {
		if m.ID != s.Self && s.Recloning[m.ID] && m.Voter && s.MustStay(m.ID) == "" {
			return Change{Demote, m.ID, "its data is of no use, and the others can do without it"}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Joining)) {
		if s.Leaving[id] || s.Recloning[id] || s.Wanted.Excludes(replication.Ordinal(id.Pod())) {
			continue
		}
		m, in := s.Members.Find(id)
		switch {
		case !in:
			return Change{AddLearner, id, "it asks to join"}
		case m.Voter || !s.Joining[id] || !s.Alive[id]:
			// A pod may reach the master and not be reached by it: its vote would be
			// needed, and never come.
			continue
		}
		old, found := s.olderIncarnation(id)
		switch {
		case !found:
			return Change{Promote, id, "it has caught up"}
		case s.canLose(old):
			return Change{Remove, old, "the pod has a new disk: " + string(id)}
		}
	}
	return Change{}
}

func (s Situation) removal() Change {
	for _, wantAlive := range []bool{false, true} {
		for _, m := range s.Members {
			id, because := m.ID, "it left"
			if !s.Leaving[id] {
				because = "its ordinal is no longer wanted"
			}
			gone := s.Leaving[id] || s.Wanted.Excludes(replication.Ordinal(id.Pod())) && (!s.Alive[id] || s.Overdue[id])
			if gone && id != s.Self && s.Alive[id] == wantAlive && s.canLose(id) {
				return Change{Remove, id, because}
			}
		}
	}
	return Change{}
}

// MustStay says why a member must keep its data, of no use as it may be, and its
// vote; empty: it may lose them. All others must vote, answer and keep up: then no
// other pod is being replaced, no vote is taken that may soon be needed, and the
// change, and the writes after it, need not wait for a pod that lacks much.
func (s Situation) MustStay(id replication.MemberID) string {
	if m, in := s.Members.Find(id); !in || !m.Voter {
		return ""
	}
	if len(s.Members) == 1 {
		return "it is the only member"
	}
	for _, m := range s.Members {
		switch {
		case m.ID == id:
		case !m.Voter:
			return fmt.Sprintf("%s does not vote yet: one pod is replaced at a time", m.ID.Pod())
		case !s.Alive[m.ID]:
			return fmt.Sprintf("%s does not answer the master", m.ID.Pod())
		case s.Behind[m.ID]:
			return fmt.Sprintf("%s lags behind the master", m.ID.Pod())
		}
	}
	return ""
}

func (s Situation) olderIncarnation(id replication.MemberID) (replication.MemberID, bool) {
	for _, m := range s.Members {
		if m.ID != id && m.ID != s.Self && m.ID.Pod() == id.Pod() {
			return m.ID, true
		}
	}
	return "", false
}

// canLose says whether the living voters without id are a majority without it.
func (s Situation) canLose(id replication.MemberID) bool {
	n, alive := 0, 0
	for _, m := range s.Members {
		if !m.Voter || m.ID == id {
			continue
		}
		n++
		if s.Alive[m.ID] {
			alive++
		}
	}
	return alive > n/2
}
