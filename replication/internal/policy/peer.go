package policy

import (
	"cmp"
	"slices"

	"github.com/batondb/baton/replication"
)

// Entry is a place in the log.
type Entry struct{ Index, Term uint64 }

// compare orders the ends of logs as votes do: by the term first, for a longer log
// may end in what nobody confirmed (Raft paper, 5.4.1).
func (e Entry) compare(other Entry) int {
	return cmp.Or(cmp.Compare(e.Term, other.Term), cmp.Compare(e.Index, other.Index))
}

// Member is an entry of the membership.
type Member struct {
	ID    replication.MemberID
	Voter bool
}

// Members are a membership, in the order in which they joined.
type Members []Member

// Find finds a member.
func (m Members) Find(id replication.MemberID) (Member, bool) {
	for _, other := range m {
		if other.ID == id {
			return other, true
		}
	}
	return Member{}, false
}

// Voters are the members that vote.
func (m Members) Voters() []replication.MemberID {
	var ids []replication.MemberID
	for _, other := range m {
		if other.Voter {
			ids = append(ids, other.ID)
		}
	}
	return ids
}

// Wanted says which ordinals should exist; nil: that is not known.
type Wanted func(ordinal int) bool

// Excludes says that an ordinal should certainly not exist.
func (w Wanted) Excludes(ordinal int) bool { return w != nil && !w(ordinal) }

// Peer is what a pod says of itself.
type Peer struct {
	Member replication.MemberID
	// Cluster is the one it has met; Replaces the one that this one goes on from.
	Cluster, Replaces string
	// Empty: it has no data, and has met no cluster.
	Empty   bool
	HasData bool
	// Cold: it waits for the next pod to be created, see [Cold].
	Cold bool
	// Condemned: its data is of no use.
	Condemned bool
	// Master: it leads, and is ready to. Cloneable: it gives clones.
	Master, Cloneable bool
	// Term is its log's; 0: its log does not run.
	Term uint64
	// Last is the end of its log.
	Last Entry
}

// is says that a pod answers with the data of a member.
func (p *Peer) is(id replication.MemberID) bool { return p != nil && p.Member == id && !p.useless() }

// useless says that a pod has found its data damaged, and cannot even vote.
func (p *Peer) useless() bool { return p.Condemned && p.Term == 0 }

// Seen are the pods that answered, by name.
type Seen map[string]*Peer

// Holds says whether a pod has data of a cluster.
func (s Seen) Holds(cluster string) bool {
	for _, p := range s {
		if p.HasData && p.Cluster == cluster {
			return true
		}
	}
	return false
}

// Empty are the pods that say that they have no data and have met no cluster.
func (s Seen) Empty() []string {
	var pods []string
	for pod, p := range s {
		if p.Empty {
			pods = append(pods, pod)
		}
	}
	return pods
}

// Master picks the master; of two that believe they are, the later one.
func (s Seen) Master() (pod string, ok bool) {
	var term uint64
	for name, p := range s {
		if p.Master && (!ok || p.Term > term) {
			pod, term, ok = name, p.Term, true
		}
	}
	return pod, ok
}

// without are the pods of members that did not answer.
func (s Seen) without(members []replication.MemberID) []string {
	var pods []string
	for _, id := range members {
		if s[id.Pod()] == nil {
			pods = append(pods, id.Pod())
		}
	}
	return pods
}

// others are the voters of other pods, by ordinal.
func others(self replication.MemberID, voters []replication.MemberID) []replication.MemberID {
	voters = slices.DeleteFunc(slices.Clone(voters), func(id replication.MemberID) bool { return id.Pod() == self.Pod() })
	slices.SortFunc(voters, func(a, b replication.MemberID) int { return replication.ByOrdinal(a.Pod(), b.Pod()) })
	return voters
}

// pods are the names in the order of their ordinals.
func (s Seen) pods() []string {
	names := make([]string, 0, len(s))
	for pod := range s {
		names = append(names, pod)
	}
	slices.SortFunc(names, replication.ByOrdinal)
	return names
}
