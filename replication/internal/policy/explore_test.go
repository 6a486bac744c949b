package policy_test

import (
	"flag"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
)

var depthFlag = flag.Int("depth", 0, "how many events TestExplore tries after another; 0: few")

// beginning is a state to explore from: how many pods there should be, created in
// order or not, and what has happened.
type beginning struct {
	name     string
	replicas int
	ordered  bool
	events   string
}

// beginnings are the states to explore from.
var beginnings = []beginning{
	{"nothing, pods at once", 3, false, ""},
	{"nothing, pods in order", 3, true, ""},
	{"two pods", 2, false, "start 0, start 1, settle"},
	{"three pods", 3, false, "start 0, start 1, start 2, settle"},
	{"three pods in order", 3, true, "start 0, settle, start 1, settle, start 2, settle"},
	{"three pods, and a write that one lacks", 3, false, "start 0, start 1, start 2, settle, cut 1, write 0, turn 0, heal 1"},
	{"three pods of four", 4, false, "start 0, start 1, start 2, settle"},
}

// explorer tries every order of events, the shorter ones first.
type explorer struct {
	policies *policies
	events   []event // that are tried
	depth    int

	seed    maphash.Seed
	visited map[uint64]bool
	good    map[uint64]bool // states from which all pods become ready
	stuck   map[uint64]bool // and those from which they need not
	nodes   []node
	full    int // whose log is too long for the model
	waits   int // in which a majority of the volumes is lost
	buffer  []byte
}

// node is a state that was reached, and how.
type node struct {
	parent int32
	event  event
}

// finding is what is wrong, and the shortest way to it.
type finding struct {
	wrong string
	path  []event
}

func newExplorer(p *policies, pods, depth int) *explorer {
	return &explorer{policies: p, events: events(pods), depth: depth, seed: maphash.MakeSeed(), visited: map[uint64]bool{}, good: map[uint64]bool{}, stuck: map[uint64]bool{}}
}

func (x *explorer) hash(m *model) uint64 {
	x.buffer = m.encode(x.buffer[:0])
	return maphash.Bytes(x.seed, x.buffer)
}

// begun is a state to begin with.
func begun(p *policies, replicas int, ordered bool, script string) *model {
	m := &model{policies: p}
	m.replicas, m.ordered = replicas, ordered
	for _, e := range parseEvents(script) {
		m.happen(e)
	}
	m.canonical()
	return m
}

func parseEvents(script string) (all []event) {
	for _, words := range strings.Split(script, ", ") {
		name, arg := words, 0
		fmt.Sscanf(words, "%s %d", &name, &arg) //nolint:errcheck // Not each has a number.
		if do := slices.Index(verbNames[:], name); do >= 0 {
			all = append(all, event{verb(do), arg})
		}
	}
	return all
}

func (x *explorer) run(from *model) *finding {
	type open struct {
		node  int32
		state []byte
	}
	x.nodes = []node{{parent: -1}}
	x.visited[x.hash(from)] = true
	frontier := []open{{0, slices.Clone(x.buffer)}}
	var before, m model
	before.policies, m.policies = x.policies, x.policies
	for range x.depth {
		var next []open
		for _, o := range frontier {
			before.decode(o.state)
			for _, e := range x.events {
				m.world = before.world
				if !m.happen(e) {
					continue
				}
				if m.wrong == "" {
					m.canonical()
					if h := x.hash(&m); x.visited[h] {
						continue
					} else {
						x.visited[h] = true
					}
					state := slices.Clone(x.buffer)
					x.nodes = append(x.nodes, node{o.node, e})
					next = append(next, open{int32(len(x.nodes) - 1), state})
					x.check(&m)
				}
				if m.wrong != "" {
					return &finding{m.wrong, append(x.path(o.node), e)}
				}
			}
		}
		frontier = next
	}
	return nil
}

func (x *explorer) path(n int32) (path []event) {
	for ; n > 0; n = x.nodes[n].parent {
		path = append(path, x.nodes[n].event)
	}
	slices.Reverse(path)
	return path
}

// check looks at a state: at what is, and at what becomes of it.
func (x *explorer) check(m *model) {
	m.agree()
	m.probeRecovery()
	m.probeElection()
	if m.wrong != "" {
		return
	}
	after := model{world: m.world, policies: m.policies}
	if x.heals(&after) {
		return
	}
	m.violated("%s", after.wrong)
}

// agree looks whether what was committed is the same on all disks.
func (m *model) agree() {
	for p := range m.pods {
		a := &m.pods[p]
		for q := range p {
			b := &m.pods[q]
			if a.disk.stage != data || b.disk.stage != data {
				continue
			}
			if a.disk.cluster != b.disk.cluster {
				m.violated("two clusters: kv-%d has data of %s, kv-%d of %s", q, clusterNames[b.disk.cluster], p, clusterNames[a.disk.cluster])
			}
			for i := uint8(1); i <= min(a.commit, b.commit); i++ {
				if a.disk.log[i] != b.disk.log[i] && i > max(a.disk.base, b.disk.base) {
					m.violated("entry %d differs: kv-%d and kv-%d have both committed it", i, q, p)
				}
			}
		}
	}
}

// alive says whether the disk of a member is there, or will be when its pod starts.
func (m *model) alive(i id) bool {
	q := &m.pods[i.pod()]
	return q.disk.member == i && q.disk.stage != empty && (q.up || i.pod() < m.replicas)
}

// survives says whether a majority has its data, and helps whether one that should
// exist has data that is of use.
func (m *model) survives(c configuration) (survives, helps bool) {
	n, voters := 0, c.voters()
	for _, v := range voters {
		if m.alive(v) {
			n++
			helps = helps || v.pod() < m.replicas && !m.pods[v.pod()].disk.condemned
		}
	}
	return n*2 > len(voters), helps
}

// lost says that nothing but a person can help: of the committed membership, or of
// a later one that one of its voters has, no majority has its data; or all of it is
// of no use.
func (m *model) lost() bool {
	if m.committed == (configuration{}) {
		for p := m.replicas; p < maxPods; p++ {
			if m.pods[p].used && m.record == (record{}) {
				return true // Nobody can say that the volume of a pod that was scaled away is empty.
			}
		}
		founder := m.record.founder
		return m.record != record{} && (founder == 0 || m.pods[founder.pod()].disk.member != founder) || m.founded
	}
	all := []configuration{m.committed}
	for _, v := range m.committed.voters() {
		if d := &m.pods[v.pod()].disk; m.alive(v) {
			c, _ := d.latest(d.end)
			all = append(all, c)
		}
	}
	for _, c := range all {
		if survives, helps := m.survives(c); !survives || !helps {
			return true
		}
	}
	return false
}

// heals ends all faults, has Kubernetes start what should run and stop what should
// not, and looks whether all pods become ready, and are the voters.
func (x *explorer) heals(m *model) bool {
	m.silent, m.parted = false, 0
	for p := range m.pods {
		m.pods[p].cut = false
	}
	var met []uint64
	lost, known := m.lost(), false
	for range 20 {
		before := m.world
		for p := range m.pods {
			if m.mayStart(p) {
				m.happen(event{start, p})
			}
		}
		m.prudent = false
		m.settle()
		for p := m.replicas; p < maxPods; p++ {
			m.happen(event{leave, p})
		}
		m.settle()
		if m.world == before {
			m.killLate()
		}
		if m.wrong != "" {
			return false
		}
		if m.world == before {
			break
		}
		m.canonical()
		h := x.hash(m)
		if known = x.good[h] || lost && x.stuck[h]; known {
			break
		}
		met = append(met, h)
	}
	switch {
	case known:
	case m.full():
		x.full++
	case lost:
		x.waits++
		m.waiting()
	default:
		m.healthy()
	}
	if m.wrong != "" {
		return false
	}
	for _, h := range met {
		if lost {
			x.stuck[h] = true
		} else {
			x.good[h] = true
		}
	}
	return true
}

// killLate ends the pods whose time to stop is over: those first that were told to
// and are wanted again, and then the others.
func (m *model) killLate() {
	again := false
	for p := range m.replicas {
		again = m.pods[p].stopping && m.happen(event{remove, p}) || again
	}
	for p := m.replicas; p < maxPods && !again; p++ {
		m.happen(event{remove, p})
	}
}

func (m *model) full() bool {
	for p := range m.pods {
		if d := &m.pods[p].disk; d.end >= maxLog || d.term >= maxTerms {
			return true
		}
	}
	return false
}

// waiting looks whether the pods wait, and say so, though the majority is lost.
func (m *model) waiting() {
	for p := range m.pods {
		if q := &m.pods[p]; q.up && q.leads && q.ready && !q.disk.condemned {
			in := 0
			for _, v := range m.committed.voters() {
				if m.hears(p, v) {
					in++
				}
			}
			if in*2 <= len(m.committed.voters()) {
				m.violated("kv-%d leads without a majority", p)
			}
		}
	}
}

func (m *model) healthy() {
	for p := range m.replicas {
		q := &m.pods[p]
		switch because := m.notReady(p); {
		case because != "":
			m.violated("no way back: kv-%d is not ready, because %s", p, because)
		case q.master == 0:
			m.violated("no way back: kv-%d has no master", p)
		default:
			if in, votes := m.committed.find(q.disk.member); !in || !votes {
				m.violated("no way back: kv-%d does not vote: %s", p, m.committed)
			}
		}
	}
	if n := len(m.committed.members()); m.wrong == "" && n != m.replicas {
		m.violated("no way back: %d pods should exist, and the members are %s", m.replicas, m.committed)
	}
}

// probeRecovery has a person run kvd recover in each pod, and name what is lost.
func (m *model) probeRecovery() {
	if survives, _ := m.survives(m.committed); !survives {
		return
	}
	for p := range m.pods {
		q := &m.pods[p]
		if !q.up || q.disk.stage != data {
			continue
		}
		now, _ := q.disk.latest(q.disk.end)
		r := m.recover(p)
		for _, v := range now.voters() {
			if !m.alive(v) {
				r.Lost = append(r.Lost, podNames[v.pod()])
			}
		}
		if survives, _ := m.survives(now); !survives || len(now.voters()) == 1 {
			continue // By all that it knows the majority is lost; or nothing can be.
		}
		if m.recovery(r) == "" {
			m.violated("kvd recover in kv-%d is carried out, while a majority has its data", p)
		}
	}
}

func (m *model) recover(p int) policy.Recovery {
	q := &m.pods[p]
	d := &q.disk
	r := policy.Recovery{Self: d.member.name(), Cluster: clusterNames[d.cluster], Runs: true, Last: d.last(), Seen: m.seen(p), Fate: map[string]policy.Fate{}}
	if q.master != 0 {
		r.Master = podNames[q.master.pod()]
	}
	now, _ := d.latest(d.end)
	for _, v := range now.voters() {
		r.Voters = append(r.Voters, v.name())
		switch o := &m.pods[v.pod()]; {
		case r.Seen[podNames[v.pod()]] != nil:
		case m.silent:
			r.Fate[podNames[v.pod()]] = policy.Fate{Doubt: "what became of " + podNames[v.pod()] + " is not known: the API server does not answer"}
		case o.exists:
			r.Fate[podNames[v.pod()]] = policy.Fate{Doubt: "Kubernetes says that " + podNames[v.pod()] + " runs"}
		case !o.used:
			r.Fate[podNames[v.pod()]] = policy.Fate{Gone: true}
		}
	}
	return r
}

// probeElection looks whether the pod that is taken for the best one, when all have
// just started, is elected.
func (m *model) probeElection() {
	for p := range m.pods {
		q := &m.pods[p]
		if !q.up || q.leads || q.master != 0 || q.disk.stage != data {
			continue
		}
		now, _ := q.disk.latest(q.disk.end)
		var voters []replication.MemberID
		for _, v := range now.voters() {
			if v != q.disk.member && (!m.answers(p, v) || m.pods[v.pod()].leads || m.pods[v.pod()].master != 0) {
				return
			}
			voters = append(voters, v.name())
		}
		best, complete := m.best(q.disk.member.name(), q.disk.last(), voters, m.seen(p))
		if !complete || best != q.disk.member.name() || q.disk.end >= maxLog {
			continue
		}
		after := model{world: m.world, policies: m.policies}
		elected := after.campaign(p, true)
		if !elected { // It may only have heard of a later term.
			elected = after.campaign(p, true)
		}
		if !elected {
			m.violated("kv-%d is taken for the best voter, and is not elected", p)
		}
	}
}

// teller writes down what pods do, but for what a pod says again.
func teller(b *strings.Builder) func(p int, format string, args ...any) {
	var last [maxPods]string
	return func(p int, format string, args ...any) {
		if line := fmt.Sprintf("kv-%d: %s\n", p, fmt.Sprintf(format, args...)); line != last[p] {
			last[p] = line
			b.WriteString(line)
		}
	}
}

// maxLines is how much of a way is worth reading.
const maxLines = 60

// steps prints a way to a state, as a script of testdata has it.
func (f *finding) steps(from *model) string {
	var b strings.Builder
	m := &model{world: from.world, policies: from.policies}
	m.say = teller(&b)
	for _, e := range f.path {
		fmt.Fprintf(&b, "%s\n----\n", e)
		m.happen(e)
		fmt.Fprintln(&b)
	}
	if m.wrong == "" {
		fmt.Fprintf(&b, "all faults end\n----\n")
		newExplorer(from.policies, maxPods, 0).heals(m)
	}
	fmt.Fprintf(&b, "=> %s\n", f.wrong)
	if lines := strings.SplitAfter(b.String(), "\n"); len(lines) > maxLines {
		return strings.Join(append(lines[:maxLines-2:maxLines-2], "...\n", lines[len(lines)-2]), "")
	}
	return b.String()
}

// TestExplore tries all orders of events up to a depth: a few here, and more with
// make explore.
func TestExplore(t *testing.T) {
	for _, b := range beginnings {
		t.Run(b.name, func(t *testing.T) {
			from := begun(realPolicies(), b.replicas, b.ordered, b.events)
			depth := *depthFlag
			if depth == 0 {
				depth = 3
			}
			if b.events == "" {
				depth += 2 // Less can happen.
			}
			x := newExplorer(realPolicies(), max(b.replicas, 3), depth)
			began := time.Now()
			found := x.run(from)
			t.Logf("%d orders deep: %d states in %s; %d wait for a person, %d too long for the model", depth, len(x.visited), time.Since(began).Round(time.Millisecond), x.waits, x.full)
			if found != nil {
				t.Errorf("%s\n%s", found.wrong, found.steps(from))
			}
		})
	}
}
