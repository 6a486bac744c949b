package policy_test

import (
	"testing"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
)

// Scenario: S13, S17
func TestMembership(t *testing.T) {
	voter := func(id replication.MemberID) policy.Member { return policy.Member{ID: id, Voter: true} }
	learner := func(id replication.MemberID) policy.Member { return policy.Member{ID: id} }
	alive := func(ids ...replication.MemberID) map[replication.MemberID]bool {
		m := map[replication.MemberID]bool{}
		for _, id := range ids {
			m[id] = true
		}
		return m
	}
	all := func(int) bool { return true }
	for _, tc := range []struct {
		name string
		s    policy.Situation
		want policy.Change
	}{
		{"nobody asks", policy.Situation{Members: policy.Members{voter("kv-0/a")}}, policy.Change{}},
		{"a new pod", policy.Situation{Members: policy.Members{voter("kv-0/a")}, Joining: map[replication.MemberID]bool{"kv-1/b": false}},
			policy.Change{Do: policy.AddLearner, Member: "kv-1/b"}},
		{"it is behind", policy.Situation{Members: policy.Members{voter("kv-0/a"), learner("kv-1/b")}, Joining: map[replication.MemberID]bool{"kv-1/b": false}}, policy.Change{}},
		{"it has caught up", policy.Situation{Members: policy.Members{voter("kv-0/a"), learner("kv-1/b")}, Joining: map[replication.MemberID]bool{"kv-1/b": true}},
			policy.Change{Do: policy.Promote, Member: "kv-1/b"}},
		{"it has caught up, but is not heard", policy.Situation{Members: policy.Members{voter("kv-0/a"), learner("kv-1/b")},
			Joining: map[replication.MemberID]bool{"kv-1/b": true}, Alive: alive("kv-0/a")}, policy.Change{}},
		{"it asks no more", policy.Situation{Members: policy.Members{voter("kv-0/a"), learner("kv-1/b")}}, policy.Change{}},
		{"a new disk: first the old incarnation goes",
			policy.Situation{Members: policy.Members{voter("kv-0/a"), voter("kv-1/b"), voter("kv-2/old"), learner("kv-2/new")},
				Joining: map[replication.MemberID]bool{"kv-2/new": true}, Alive: alive("kv-0/a", "kv-1/b", "kv-2/new")},
			policy.Change{Do: policy.Remove, Member: "kv-2/old"}},
		{"a new disk, another pod down: nothing is risked",
			policy.Situation{Members: policy.Members{voter("kv-0/a"), voter("kv-1/b"), voter("kv-2/old"), learner("kv-2/new")},
				Joining: map[replication.MemberID]bool{"kv-2/new": true}, Alive: alive("kv-0/a", "kv-2/new")}, policy.Change{}},
		{"a leaver", policy.Situation{Members: policy.Members{voter("kv-0/a"), voter("kv-1/b"), voter("kv-2/c")},
			Leaving: alive("kv-2/c"), Alive: alive("kv-0/a", "kv-1/b", "kv-2/c")}, policy.Change{Do: policy.Remove, Member: "kv-2/c"}},
		{"a leaver that the quorum needs", policy.Situation{Members: policy.Members{voter("kv-0/a"), voter("kv-1/b"), voter("kv-2/c")},
			Leaving: alive("kv-2/c"), Alive: alive("kv-0/a", "kv-2/c")}, policy.Change{}},
		{"data of no use", policy.Situation{Members: policy.Members{voter("kv-0/a"), voter("kv-1/b"), voter("kv-2/c")},
			Recloning: alive("kv-2/c"), Alive: alive("kv-0/a", "kv-1/b")}, policy.Change{Do: policy.Demote, Member: "kv-2/c"}},
		{"data of no use, and another pod is away", policy.Situation{
			Members:   policy.Members{voter("kv-0/a"), voter("kv-1/b"), voter("kv-2/c"), voter("kv-3/d"), voter("kv-4/e")},
			Recloning: alive("kv-2/c"), Alive: alive("kv-0/a", "kv-1/b", "kv-2/c", "kv-3/d")}, policy.Change{}},
		{"data of no use in two pods", policy.Situation{Members: policy.Members{voter("kv-0/a"), voter("kv-1/b"), learner("kv-2/c")},
			Recloning: alive("kv-1/b", "kv-2/c")}, policy.Change{}},
		{"data of no use in two pods, one is being replaced", policy.Situation{
			Members: policy.Members{voter("kv-0/a"), voter("kv-1/b"), learner("kv-2/old"), learner("kv-2/new")},
			Joining: map[replication.MemberID]bool{"kv-2/new": false}, Recloning: alive("kv-1/b")}, policy.Change{}},
		{"data of no use in a pod that joins", policy.Situation{Members: policy.Members{voter("kv-0/a"), learner("kv-1/b")},
			Joining: map[replication.MemberID]bool{"kv-1/b": true}, Recloning: alive("kv-1/b")}, policy.Change{}},
		{"data of no use in two pods of two", policy.Situation{Members: policy.Members{voter("kv-0/a"), voter("kv-1/b")},
			Recloning: alive("kv-0/a", "kv-1/b")}, policy.Change{Do: policy.Demote, Member: "kv-1/b"}},
		{"5 to 2 at once: the dead first", policy.Situation{
			Members: policy.Members{voter("kv-0/a"), voter("kv-1/b"), voter("kv-2/c"), voter("kv-3/d"), voter("kv-4/e")},
			Alive:   alive("kv-0/a", "kv-1/b", "kv-2/c"), Wanted: func(o int) bool { return o < 2 }},
			policy.Change{Do: policy.Remove, Member: "kv-3/d"}},
		{"5 to 2 at once: the living leave by themselves", policy.Situation{
			Members: policy.Members{voter("kv-0/a"), voter("kv-1/b"), voter("kv-2/c"), voter("kv-3/d"), voter("kv-4/e")},
			Alive:   alive("kv-0/a", "kv-1/b", "kv-2/c", "kv-3/d", "kv-4/e"), Wanted: func(o int) bool { return o < 2 }},
			policy.Change{}},
		{"5 to 2 at once: one does not", policy.Situation{
			Members: policy.Members{voter("kv-0/a"), voter("kv-1/b"), voter("kv-2/c"), voter("kv-3/d"), voter("kv-4/e")},
			Alive:   alive("kv-0/a", "kv-1/b", "kv-2/c", "kv-3/d", "kv-4/e"), Wanted: func(o int) bool { return o < 2 },
			Overdue: alive("kv-3/d")}, policy.Change{Do: policy.Remove, Member: "kv-3/d"}},
		{"an ordinal that should not be does not join", policy.Situation{Members: policy.Members{voter("kv-0/a")},
			Joining: map[replication.MemberID]bool{"kv-1/b": true}, Wanted: func(o int) bool { return o < 1 }}, policy.Change{}},
	} {
		tc.s.Self = "kv-0/a"
		if tc.s.Wanted == nil {
			tc.s.Wanted = all
		}
		if tc.s.Alive == nil {
			tc.s.Alive = alive("kv-0/a", "kv-1/b")
		}
		got := tc.s.Next()
		got.Because = ""
		if got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}
