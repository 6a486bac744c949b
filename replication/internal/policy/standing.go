package policy

import (
	"cmp"
	"fmt"

	"github.com/batondb/baton/replication"
)

// Standing is what a member knows of its own part in the cluster.
type Standing struct {
	Self replication.MemberID
	// Members are the newest committed membership that was applied here, at Index.
	Members Members
	Index   uint64
	// Joined is the index of the first one that had this member in it; 0: none had.
	Joined uint64
}

// Review says whether the member votes, whether that it has joined is to be noted on
// its disk, and whether it was removed: why, or empty.
func (s Standing) Review() (votes, joined bool, removed string) {
	m, in := s.Members.Find(s.Self)
	switch {
	case in && s.Joined == 0:
		joined = true
	case !in && s.Joined > 0 && s.Index > s.Joined:
		removed = fmt.Sprintf("%s was removed from the membership at index %d", s.Self, s.Index)
	}
	return m.Voter, joined, removed
}

// Admission is what the master knows of a member that asks to be taken in.
type Admission struct {
	Member replication.MemberID
	// Returning: it has once been a member. Removed: this master has taken it out.
	Returning, Removed bool
	// Committed and Latest are the membership that was applied, and the newest.
	Committed, Latest Members
}

// What the master answers.
const (
	Admit      = "take in"
	IsVoter    = "it votes already"
	WasRemoved = "it was removed"
)

// Answer says what the master answers. Who was taken in and out again before it
// heard of either does not know that it is one that returns. The master says that a
// member was removed only once a quorum has confirmed that it leads: whoever is told
// so gives up its data.
func (a Admission) Answer() string {
	_, committed := a.Committed.Find(a.Member)
	m, latest := a.Latest.Find(a.Member)
	switch {
	case (a.Returning || a.Removed) && !committed && !latest:
		return WasRemoved
	case latest && m.Voter:
		return IsVoter
	}
	return Admit
}

// Roles of a pod.
const (
	NoMember = ""
	Learner  = "learner"
	Voter    = "voter"
)

// Readiness is what a pod with data knows that may get traffic.
type Readiness struct {
	Stopped bool
	// Retired and Condemned say why the data must not be used, or is of no use.
	Retired, Condemned string
	// Waits says what a pod with data of no use waits for, or one that does not take what
	// the master writes.
	Waits string
	// AwaitsNext: a pod above this one should exist, and does not.
	AwaitsNext bool
	// Master is the pod that it takes for the master. Cold: see [Quorum].
	Master string
	Cold   bool
	Role   string
	// Leads: it was elected. Ready: and has committed an entry of its own term.
	Leads, Ready bool
	// Caught: it has once had all that was acknowledged before.
	Caught             bool
	Applied, Committed uint64
}

// NotReady says why the pod should get no traffic; empty: it should.
func (r Readiness) NotReady() string {
	switch {
	case r.Stopped:
		return "it stops"
	case r.Retired != "":
		return "its member is retired: " + r.Retired
	case r.Condemned != "" && r.AwaitsNext:
		return "" // What it waits for may be the next pod, which is only created once this one is ready.
	case r.Condemned != "":
		return cmp.Or(r.Waits, "its data is of no use: "+r.Condemned)
	case r.Master == "" && r.Cold:
		return "" // The next pod is only created once this one is ready; what it is may be in its log only.
	case r.Role == NoMember:
		return "it is not a member yet"
	case r.Role == Learner:
		return "it is a learner that catches up"
	case r.Waits != "":
		return r.Waits
	case r.Leads && !r.Ready:
		return "it takes over"
	case r.Master == "":
		return "no master is known"
	case !r.Caught:
		return fmt.Sprintf("it catches up: applied %d of %d", r.Applied, r.Committed)
	}
	return ""
}
