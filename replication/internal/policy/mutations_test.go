package policy_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
)

// mutations are policies with one bug each, and a state from which the explorer
// finds it soon.
var mutations = []struct {
	name      string
	beginning string
	mutate    func(*policies)
}{
	{"a pod founds beside volumes that may have data", "two pods", func(p *policies) {
		p.founding = func(f kubernetes.Founding) string { f.Used = nil; return f.Refusal() }
	}},
	{"a pod founds beside those that were scaled away", "two pods", func(p *policies) {
		p.founding = func(f kubernetes.Founding) string {
			f.Used = slices.DeleteFunc(slices.Clone(f.Used), func(pod string) bool { return !f.Ordinals.Cover(replication.Ordinal(pod)) })
			return f.Refusal()
		}
		p.fresh = func(a policy.Arrival) bool { return a.Cluster == "" }
	}},
	{"a pod founds though it has met a cluster", "two pods", func(p *policies) {
		p.fresh = func(policy.Arrival) bool { return true }
		p.founding = func(f kubernetes.Founding) string { f.Used = nil; return f.Refusal() }
	}},
	{"a pod founds when nobody answers", "two pods", func(p *policies) {
		p.arrive = func(a policy.Arrival) policy.Arriving {
			if d := a.Decide(); d.Do != policy.Wait || len(a.Seen) > 0 || a.Sign == nil || a.Sign.Missing == "" {
				return d
			}
			return policy.Arriving{Do: policy.Initialize, Cluster: "H", Because: "nobody answers"}
		}
	}},
	{"a master gives no clone", "nothing, pods at once", func(p *policies) {
		p.arrive = func(a policy.Arrival) policy.Arriving {
			d := a.Decide()
			if d.Do == policy.Clone && len(d.Sources) == 1 && d.Sources[0] == d.Master {
				d.Do = policy.Wait
			}
			return d
		}
	}},
	{"a clone is taken from data of no use", "three pods", func(p *policies) {
		p.arrive = func(a policy.Arrival) policy.Arriving {
			for _, peer := range a.Seen {
				peer.Cloneable = peer.Cloneable || peer.Condemned
			}
			return a.Decide()
		}
	}},
	{"a cold start without data is not noticed", "three pods in order", func(p *policies) {
		p.arrive = func(a policy.Arrival) policy.Arriving {
			d := a.Decide()
			d.Cold = false
			return d
		}
	}},
	{"a cold start with data is not noticed", "three pods in order", func(p *policies) {
		p.missing = func(policy.Quorum) bool { return false }
	}},
	{"a pod that cannot vote for this one counts as running", "three pods in order, one of which is away", func(p *policies) {
		p.missing = func(q policy.Quorum) bool {
			for _, peer := range q.Seen {
				peer.Cold = false
			}
			return q.Missing()
		}
	}},
	{"a pod in a cold start is not ready", "three pods in order", func(p *policies) {
		p.notReady = func(r policy.Readiness) string { r.Cold = false; return r.NotReady() }
	}},
	{"a pod's old incarnation keeps its vote", "three pods", func(p *policies) {
		p.next = func(s policy.Situation) policy.Change {
			c := s.Next()
			if id, ok := strings.CutPrefix(c.Because, "the pod has a new disk: "); ok {
				return policy.Change{Do: policy.Promote, Member: replication.MemberID(id), Because: "it has caught up"}
			}
			return c
		}
	}},
	{"a member is removed though the rest is no quorum", "three pods", func(p *policies) {
		p.next = func(s policy.Situation) policy.Change {
			real := s.Alive
			s.Alive = map[replication.MemberID]bool{}
			for _, m := range s.Members {
				s.Alive[m.ID] = true
			}
			if c := s.Next(); c.Do == policy.Remove {
				return c
			}
			s.Alive = real
			return s.Next()
		}
	}},
	{"who should not exist is never removed", "two pods", func(p *policies) {
		p.next = func(s policy.Situation) policy.Change { s.Wanted = nil; return s.Next() }
	}},
	{"who asks to leave is not let go", "two pods", func(p *policies) {
		p.next = func(s policy.Situation) policy.Change {
			c := s.Next()
			if c.Do == policy.Remove {
				return policy.Change{}
			}
			return c
		}
	}},
	{"a new disk does not replace the old one", "three pods", func(p *policies) {
		p.next = func(s policy.Situation) policy.Change {
			for _, m := range s.Members {
				maps.DeleteFunc(s.Joining, func(id replication.MemberID, _ bool) bool { return id != m.ID && id.Pod() == m.ID.Pod() })
			}
			return s.Next()
		}
	}},
	{"data of no use is given up though another pod is silent", "three pods", func(p *policies) {
		p.next = func(s policy.Situation) policy.Change {
			for _, m := range s.Members {
				if s.Recloning[m.ID] && m.Voter {
					return policy.Change{Do: policy.Demote, Member: m.ID, Because: "its data is of no use"}
				}
			}
			return s.Next()
		}
	}},
	{"who was removed is not told", "three pods", func(p *policies) {
		p.answer = func(a policy.Admission) string { a.Returning, a.Removed = false, false; return a.Answer() }
	}},
	{"who is not a member yet takes itself for removed", "nothing, pods at once", func(p *policies) {
		p.review = func(s policy.Standing) (bool, bool, string) { s.Joined++; s.Index += 2; return s.Review() }
	}},
	{"a master hands over to nobody", "two pods", func(p *policies) {
		p.successors = func(replication.MemberID, uint64, []policy.Successor) []replication.MemberID { return nil }
	}},
	{"the worst voter is taken for the best", "two pods", func(p *policies) {
		p.best = func(self replication.MemberID, last policy.Entry, voters []replication.MemberID, seen policy.Seen) (replication.MemberID, bool) {
			best, complete := policy.BestVoter(self, last, voters, seen)
			for _, v := range voters {
				if v != best {
					return v, complete
				}
			}
			return best, complete
		}
	}},
	{"a recovery takes silence for loss", "three pods", func(p *policies) {
		p.recovery = func(r policy.Recovery) string {
			r.Lost, r.Fate = nil, nil
			for _, v := range r.Voters {
				if v != r.Self && r.Seen[v.Pod()] == nil {
					r.Lost = append(r.Lost, v.Pod())
				}
			}
			return r.Refusal()
		}
	}},
	{"a lost disk keeps its name", "a lost disk, and a write that one pod lacks", func(p *policies) { p.keepsName = true }},
}

// nearer are states from which the way is not as long.
var nearer = []beginning{
	{"three pods in order, one of which is away", 3, true, "start 0, settle, start 1, settle, start 2, settle, crash 1"},
	{"a lost disk, and a write that one pod lacks", 3, false, "start 0, start 1, start 2, settle, cut 1, write 0, turn 0, heal 1, wipe 2"},
}

// Each bug is found, and the shortest way to it printed.
func TestMutations(t *testing.T) {
	for _, mutation := range mutations {
		t.Run(mutation.name, func(t *testing.T) {
			p := realPolicies()
			from := model{}
			for _, b := range append(beginnings, nearer...) {
				if b.name == mutation.beginning {
					from = *begun(p, b.replicas, b.ordered, b.events)
				}
			}
			mutation.mutate(p)
			x := newExplorer(p, 3, 6)
			x.events = slices.DeleteFunc(x.events, func(e event) bool { return e.do == part || e.do == join })
			began := time.Now()
			found := x.run(&from)
			took := time.Since(began).Round(time.Millisecond)
			if found == nil {
				t.Fatalf("not found among %d states, in %s", len(x.visited), took)
			}
			t.Logf("found with %d events, among %d states, in %s; from %s:\n%s", len(found.path), len(x.visited), took, mutation.beginning, found.steps(&from))
		})
	}
}
