package policy_test

import (
	"slices"
	"testing"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
)

// Scenario: S22
func TestSuccessors(t *testing.T) {
	successors := func(pods ...string) []policy.Successor {
		var hs []policy.Successor
		for _, pod := range pods {
			hs = append(hs, policy.Successor{ID: replication.MemberID(pod + "/a"), Last: 1000})
		}
		return hs
	}
	change := func(hs []policy.Successor, pod string, f func(*policy.Successor)) []policy.Successor {
		for i := range hs {
			if hs[i].ID.Pod() == pod {
				f(&hs[i])
			}
		}
		return hs
	}
	stops := func(h *policy.Successor) { h.Stopping = true }
	lags := func(h *policy.Successor) { h.Last = 1000 - policy.SmallLag - 1 }
	unwanted := func(h *policy.Successor) { h.Unwanted = true }
	for _, tc := range []struct {
		name string
		self string
		in   []policy.Successor
		want []string
	}{
		{"the lowest: to the pod above, restarted already", "kv-0", successors("kv-2", "kv-1"), []string{"kv-1", "kv-2"}},
		{"in the middle: not to the pod that is next", "kv-1", successors("kv-0", "kv-2"), []string{"kv-2", "kv-0"}},
		{"the highest: to the pod that is the last", "kv-2", successors("kv-1", "kv-0"), []string{"kv-0", "kv-1"}},
		{"ordinals are numbers", "kv-9", successors("kv-8", "kv-11", "kv-10"), []string{"kv-10", "kv-11", "kv-8"}},
		{"whoever is behind comes later", "kv-0", change(successors("kv-1", "kv-2"), "kv-1", lags), []string{"kv-2", "kv-1"}},
		{"not to a pod that stops", "kv-0", change(successors("kv-1", "kv-2"), "kv-1", stops), []string{"kv-2"}},
		{"to nobody when all stop", "kv-0", change(successors("kv-1"), "kv-1", stops), nil},
		{"to a pod that stays", "kv-1", change(successors("kv-0", "kv-2"), "kv-2", unwanted), []string{"kv-0", "kv-2"}},
		{"rather behind than about to go", "kv-1", change(change(successors("kv-0", "kv-2"), "kv-2", unwanted), "kv-0", lags), []string{"kv-0", "kv-2"}},
		{"not to itself", "kv-1", successors("kv-1"), nil},
	} {
		var got []string
		for _, id := range policy.RankSuccessors(replication.MemberID(tc.self+"/a"), 1000, tc.in) {
			got = append(got, id.Pod())
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// When a pod without data is ready all the same, so that the next one is created.
func TestOthersAbsent(t *testing.T) {
	for name, tc := range map[string]struct {
		first *policy.Peer
		want  bool
	}{
		"has no data either, and does not say more": {&policy.Peer{}, true},
		"has data, and waits for the next pod":      {&policy.Peer{HasData: true, Cold: true}, true},
		"has data":                                  {&policy.Peer{HasData: true}, false},
		"does not answer":                           {nil, false},
	} {
		c := policy.Cold{
			Wanted: func(o int) bool { return o < 3 }, Candidates: []string{"kv-0", "kv-2", "kv-3"},
			Seen: policy.Seen{}, Absent: map[string]bool{"kv-2": true},
		}
		if tc.first != nil {
			c.Seen["kv-0"] = tc.first
		}
		if got := c.OthersAbsent(); got != tc.want {
			t.Errorf("kv-0 %s: %t", name, got)
		}
	}
}

// A longer log is not more when its last entries are of an earlier term: then nobody
// confirmed them.
func TestWhoHasMore(t *testing.T) {
	own := policy.Entry{Index: 10, Term: 3}
	for _, tc := range []struct {
		other policy.Entry
		more  bool
	}{
		{own, false}, {policy.Entry{Index: 11, Term: 3}, true}, {policy.Entry{Index: 9, Term: 3}, false},
		{policy.Entry{Index: 110, Term: 2}, false}, {policy.Entry{Index: 1, Term: 4}, true},
	} {
		r := policy.Recovery{
			Self: "kv-0/a", Cluster: "c", Runs: true, Last: own, Voters: []replication.MemberID{"kv-0/a", "kv-1/b", "kv-2/c"}, Lost: []string{"kv-1", "kv-2"},
			Seen: policy.Seen{"kv-1": {Member: "kv-1/new", Cluster: "c", HasData: true, Term: 1, Last: tc.other}},
		}
		if refused := r.Refusal() != ""; refused != tc.more {
			t.Errorf("%+v is more than %+v: %q", tc.other, own, r.Refusal())
		}
	}
}

// A pod that was scaled away may still run: beside its data nobody founds.
func TestNobodyFoundsBesideData(t *testing.T) {
	a := policy.Arrival{
		Pod: "kv-0", Wanted: func(o int) bool { return o < 1 }, Candidates: []string{"kv-1"},
		Seen: policy.Seen{"kv-1": {Member: "kv-1/b", Cluster: "c", HasData: true, Master: true, Cloneable: true}},
	}
	if a.Fresh() {
		t.Error("it may be told to found")
	}
	a.Sign = &policy.Sign{Missing: "there is no record"}
	if d := a.Decide(); d.Do != policy.Clone || d.Cluster != "c" || !d.Meet {
		t.Errorf("%+v", d)
	}
	a.Seen["kv-1"].HasData = false
	if !a.Fresh() {
		t.Error("it may not be told to found")
	}
}
