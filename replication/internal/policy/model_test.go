package policy_test

import (
	"fmt"
	"strings"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
)

// The model is a cluster of up to four pods without time, messages or a file: a log
// is a list of entries, a question is answered at once, and a turn of a pod does what
// the pod would do before it has to wait. What a pod decides, it decides with the
// functions of this package; all else is Raft as the library does it, written down
// again in a few lines (model_raft_test.go).
const (
	maxPods  = 4
	maxLog   = 40
	maxTerms = 24
)

// id names an incarnation of a disk in a byte: the pod's ordinal, and a number from
// 1 on. 0 is nobody.
type id uint8

func makeID(pod, incarnation int) id { return id(pod<<4 | incarnation) }

func (i id) pod() int         { return int(i >> 4 & 3) }
func (i id) incarnation() int { return int(i & 15) }

var memberNames, podNames = func() (members [64]replication.MemberID, pods [maxPods]string) {
	for i := range members {
		members[i] = replication.MemberID(fmt.Sprintf("kv-%d/%c", id(i).pod(), 'a'-1+id(i).incarnation()))
	}
	for i := range pods {
		pods[i] = fmt.Sprintf("kv-%d", i)
	}
	return members, pods
}()

func (i id) name() replication.MemberID { return memberNames[i] }

// idOf is the inverse of name.
func idOf(name replication.MemberID) id {
	return makeID(int(name[3]-'0'), int(name[5]-'a'+1))
}

func podOf(name string) int { return int(name[3] - '0') }

// voting marks a voter in a configuration.
const voting = 0x80

// configuration are ids, with voting or without; 0 ends it.
type configuration [6]uint8

func (c configuration) members() policy.Members {
	var m policy.Members
	for _, s := range c {
		if s != 0 {
			m = append(m, policy.Member{ID: id(s &^ voting).name(), Voter: s&voting != 0})
		}
	}
	return m
}

func (c configuration) find(i id) (in, votes bool) {
	for _, s := range c {
		if id(s&^voting) == i && s != 0 {
			return true, s&voting != 0
		}
	}
	return false, false
}

func (c configuration) voters() (ids []id) {
	for _, s := range c {
		if s&voting != 0 {
			ids = append(ids, id(s&^voting))
		}
	}
	return ids
}

// with makes a change.
func (c configuration) with(do string, i id) configuration {
	var next configuration
	n := 0
	add := func(s uint8) { next[n] = s; n++ }
	found := false
	for _, s := range c {
		switch {
		case s == 0:
		case id(s&^voting) != i:
			add(s)
		case do == policy.Remove:
			found = true
		case do == policy.Demote:
			found = true
			add(uint8(i))
		default:
			found = true
			add(uint8(i) | voting)
		}
	}
	if !found {
		if do == policy.AddLearner {
			add(uint8(i))
		} else {
			add(uint8(i) | voting)
		}
	}
	return next
}

func (c configuration) String() string {
	var words []string
	for _, s := range c {
		switch {
		case s&voting != 0:
			words = append(words, string(id(s&^voting).name()))
		case s != 0:
			words = append(words, string(id(s).name())+"(learner)")
		}
	}
	return strings.Join(words, " ")
}

// entry of a log: a write, a configuration, or neither, which a new master writes.
type entry struct {
	term, write uint8
	members     configuration
}

type stage uint8

const (
	empty stage = iota
	bootstrapping
	data
)

// disk is a pod's volume.
type disk struct {
	member    id
	cluster   uint8 // 0: it has met none
	stage     stage
	condemned bool
	joined    uint8
	term      uint8
	vote      id
	base      uint8 // what the database has; the log is replayed from there
	end       uint8 // of the log
	log       [maxLog + 1]entry
}

func (d *disk) last() policy.Entry {
	return policy.Entry{Index: uint64(d.end), Term: uint64(d.log[d.end].term)}
}

// latest is the newest membership in the log up to an index, and where it is.
func (d *disk) latest(upTo uint8) (configuration, uint8) {
	for i := upTo; i > 0; i-- {
		if d.log[i].members != (configuration{}) {
			return d.log[i].members, i
		}
	}
	return configuration{}, 0
}

func (d *disk) append(e entry) {
	d.end++
	d.log[d.end] = e
}

// pod is what is forgotten when a process ends, and whether it runs.
type pod struct {
	disk     disk
	used     bool // it has a claim, with a volume
	exists   bool // so does its name
	up       bool
	stopping bool // it was told to stop, and leaves
	cut      bool // off from all others
	cold     bool
	caught   bool
	leads    bool
	ready    bool // to lead
	master   id   // whom it follows
	commit   uint8
	// What a master is asked by the other pods.
	joins   [maxPods]id
	caughts [maxPods]bool
	leaves  [maxPods]id
	votes   [maxPods]bool // reclones: only the vote is to go
	removed uint64        // by this master: a bit an id
}

// record is the cluster record in Kubernetes.
type record struct {
	cluster uint8
	founder id
}

// world is the whole state.
type world struct {
	pods     [maxPods]pod
	replicas int
	ordered  bool   // pods are created one after the other
	parted   uint16 // pairs of pods, a bit each
	silent   bool   // the API server
	mute     bool   // the names: neither found nor known not to be
	listed   bool   // a person has made a list of the pods: no Kubernetes
	record   record

	// The rest nobody in the cluster knows.
	clusters  uint8                     // names given
	founded   bool                      // ever
	writes    uint8                     // sent
	acked     uint16                    // a bit a write
	committed configuration             // the newest
	voted     [maxPods][maxTerms + 1]id // for whom, in a term
	elected   [maxTerms + 1]id
	counted   [64]uint8 // the last index in whose quorum a member was
	wrong     string
}

// policies are what is tried: those of this package, or one of them broken.
type policies struct {
	arrive     func(policy.Arrival) policy.Arriving
	fresh      func(policy.Arrival) bool
	founding   func(kubernetes.Founding) string
	next       func(policy.Situation) policy.Change
	mustStay   func(policy.Situation, replication.MemberID) string
	review     func(policy.Standing) (votes, joined bool, removed string)
	answer     func(policy.Admission) string
	successors func(self replication.MemberID, last uint64, from []policy.Successor) []replication.MemberID
	missing    func(policy.Quorum) bool
	notReady   func(policy.Readiness) string
	best       func(self replication.MemberID, last policy.Entry, voters []replication.MemberID, seen policy.Seen) (replication.MemberID, bool)
	recovery   func(policy.Recovery) string
	// keepsName: a disk that is made anew has the name of the one before.
	keepsName bool
}

func realPolicies() *policies {
	return &policies{
		arrive:     policy.Arrival.Decide,
		fresh:      policy.Arrival.Fresh,
		founding:   kubernetes.Founding.Refusal,
		next:       policy.Situation.Next,
		mustStay:   policy.Situation.MustStay,
		review:     policy.Standing.Review,
		answer:     policy.Admission.Answer,
		successors: policy.RankSuccessors,
		missing:    policy.Quorum.Missing,
		notReady:   policy.Readiness.NotReady,
		best:       policy.BestVoter,
		recovery:   policy.Recovery.Refusal,
	}
}

// model is a world that moves.
type model struct {
	world
	*policies
	// patient: two minutes have passed, and who is unwanted is overdue. prudent: who
	// stands for election asks before whether it would win.
	patient, prudent bool
	say              func(pod int, format string, args ...any)
}

func (m *model) tell(pod int, format string, args ...any) {
	if m.say != nil {
		m.say(pod, format, args...)
	}
}

func (m *model) violated(format string, args ...any) {
	if m.wrong == "" {
		m.wrong = fmt.Sprintf(format, args...)
	}
}

func (m *model) reach(a, b int) bool {
	return a == b || m.pods[a].up && m.pods[b].up && !m.pods[a].cut && !m.pods[b].cut && m.parted&pair(a, b) == 0
}

// pair is the bit of a pair of pods.
func pair(a, b int) uint16 { return 1 << (min(a, b)*maxPods + max(a, b)) }

// answers says whether a pod reaches the disk of a member, and its log runs.
func (m *model) answers(from int, to id) bool {
	q := &m.pods[to.pod()]
	return q.up && m.reach(from, to.pod()) && q.disk.member == to && q.disk.stage == data
}

func (m *model) wanted() policy.Wanted {
	if m.silent || m.listed || m.replicas == 0 {
		return nil
	}
	return func(ordinal int) bool { return ordinal < m.replicas }
}

// inspect is what a pod says of itself.
func (m *model) inspect(q int) *policy.Peer {
	p := &m.pods[q]
	d := &p.disk
	peer := &policy.Peer{
		Member: d.member.name(), Empty: d.stage == empty && d.cluster == 0, HasData: d.stage != empty,
		Cold: p.cold || d.condemned && m.awaitsNext(q), Condemned: d.condemned,
	}
	if d.cluster != 0 {
		peer.Cluster = clusterNames[d.cluster]
	}
	if d.stage == data {
		now, _ := d.latest(p.commit)
		in, _ := now.find(d.member)
		peer.Master, peer.Cloneable = p.ready, in && p.caught && !d.condemned
		peer.Term, peer.Last = uint64(d.term), d.last()
	}
	return peer
}

var clusterNames = [...]string{"", "A", "B", "C", "D", "E", "F", "G", "H"}

func (m *model) seen(from int) policy.Seen {
	seen := policy.Seen{}
	for q := range m.pods {
		if q != from && m.pods[q].up && m.reach(from, q) {
			seen[podNames[q]] = m.inspect(q)
		}
	}
	return seen
}

func (m *model) absent() map[string]bool {
	absent := map[string]bool{}
	for q := range m.pods {
		if !m.pods[q].exists && !m.mute {
			absent[podNames[q]] = true
		}
	}
	return absent
}

func (m *model) awaitsNext(p int) bool {
	if wanted := m.wanted(); wanted != nil {
		for q := p + 1; q < m.replicas; q++ {
			if !m.pods[q].exists && !m.mute {
				return true
			}
		}
		return false
	}
	now, _ := m.pods[p].disk.latest(m.pods[p].commit)
	for _, s := range now {
		if q := id(s &^ voting).pod(); s != 0 && q > p && !m.pods[q].exists && !m.mute {
			return true
		}
	}
	return false
}

// notReady says why a pod gets no traffic; empty: it does.
func (m *model) notReady(p int) string {
	q := &m.pods[p]
	d := &q.disk
	switch {
	case !q.up:
		return "it does not run"
	case d.stage == empty && q.cold:
		return ""
	case d.stage == empty:
		return "it has no data"
	}
	r := policy.Readiness{Stopped: q.stopping, AwaitsNext: m.awaitsNext(p), Cold: q.cold, Leads: q.leads, Ready: q.ready,
		Caught: q.caught, Applied: uint64(q.commit), Committed: uint64(q.commit)}
	if d.condemned {
		r.Condemned = "damage"
	}
	if q.master != 0 {
		r.Master = podNames[q.master.pod()]
	}
	now, _ := d.latest(q.commit)
	switch in, votes := now.find(d.member); {
	case votes:
		r.Role = policy.Voter
	case in:
		r.Role = policy.Learner
	}
	return m.policies.notReady(r)
}
