package policy_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/batondb/baton/replication/internal/policy"
)

// TestScripts tells the decisions in stories. A script begins with a cluster, and has
// something happen to it, or its pods take turns; what the pods do, and why, is what
// it expects. The commands, beside the events of verbNames:
//
//	cluster pods=3 [ordered] [list]  three pods should exist; created in order; by a list
//	cluster pods=3 running           and they have all started, and joined
//	dns-silent, dns-back             whether names can be looked up
//	hand-over 0                      the master is asked to hand over
//	recover 1 lost=(0,2)             a person runs kvd recover in a pod
//	faults-end                       what is cut heals, and what should run is started
//	state                            what each pod is
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &story{}
		datadriven.RunTest(t, path, s.run)
	})
}

type story struct{ model model }

func (s *story) run(t *testing.T, d *datadriven.TestData) string {
	var said strings.Builder
	m := &s.model
	m.say = teller(&said)
	switch d.Cmd {
	case "cluster":
		*m = model{policies: realPolicies()}
		d.ScanArgs(t, "pods", &m.replicas)
		m.ordered, m.listed = d.HasArg("ordered"), d.HasArg("list")
		for p := 0; d.HasArg("running") && p < m.replicas; p++ {
			m.happen(event{start, p})
			m.settle()
		}
		if d.HasArg("running") {
			return m.state()
		}
	case "dns-silent", "dns-back":
		m.mute = d.Cmd == "dns-silent"
	case "hand-over":
		m.handOver(argument(t, d))
	case "recover":
		return s.recover(t, d)
	case "faults-end":
		newExplorer(m.policies, maxPods, 0).heals(m)
		if m.wrong != "" {
			fmt.Fprintln(&said, m.wrong)
			m.wrong = ""
		}
	case "state":
		return m.state()
	default:
		do := slices.Index(verbNames[:], d.Cmd)
		if do < 0 {
			t.Fatalf("no such command: %s", d.Cmd)
		}
		e := event{do: verb(do)}
		if len(d.CmdArgs) > 0 {
			e.arg = argument(t, d)
		}
		if !m.happen(e) && e.do != settle && e.do != turn {
			return "that cannot happen now"
		}
	}
	if m.wrong != "" {
		t.Error(m.wrong)
	}
	return said.String()
}

func argument(t *testing.T, d *datadriven.TestData) int {
	if a, b, pair := strings.Cut(d.CmdArgs[0].Key, "-"); pair {
		return int(a[0]-'0')*maxPods + int(b[0]-'0')
	}
	n, err := strconv.Atoi(d.CmdArgs[0].Key)
	if err != nil {
		t.Fatalf("%s: %v", d.Pos, err)
	}
	return n
}

func (s *story) recover(t *testing.T, d *datadriven.TestData) string {
	p := argument(t, d)
	r := s.model.recover(p)
	for _, arg := range d.CmdArgs {
		if arg.Key == "lost" {
			for _, n := range arg.Vals {
				r.Lost = append(r.Lost, "kv-"+n)
			}
		}
	}
	if because := s.model.recovery(r); because != "" {
		return "refused: " + because
	}
	return fmt.Sprintf("kv-%d begins a new history", p)
}

// state says what each pod is that exists.
func (m *model) state() string {
	var b strings.Builder
	for p := range m.pods {
		q := &m.pods[p]
		if !q.up {
			if q.exists || q.disk.stage != empty {
				fmt.Fprintf(&b, "kv-%d: does not run%s\n", p, map[bool]string{true: "; its volume has data"}[q.disk.stage != empty])
			}
			continue
		}
		role := "no member"
		now, _ := q.disk.latest(q.commit)
		in, votes := now.find(q.disk.member)
		switch {
		case q.disk.stage == empty:
			role = "no data"
		case q.ready:
			role = fmt.Sprintf("master in term %d", q.disk.term)
		case votes:
			role = "follower"
		case in:
			role = policy.Learner
		}
		ready := "ready"
		if because := m.notReady(p); because != "" {
			ready = "not ready, because " + because
		}
		fmt.Fprintf(&b, "kv-%d: %s, %s, %s\n", p, q.disk.member.name(), role, ready)
	}
	if m.committed != (configuration{}) {
		fmt.Fprintf(&b, "members: %s\n", m.committed)
	}
	return b.String()
}
