package policy_test

import "fmt"

// event is what happens to a cluster, or a turn of one of its pods.
type event struct {
	do  verb
	arg int // a pod, or how many there should be
}

type verb uint8

const (
	start verb = iota
	crash
	remove
	wipe
	cut
	heal
	leave
	damage
	write
	turn
	part // two pods from each other
	join
	scale
	silence
	speak
	forget
	settle
	verbs
)

var verbNames = [verbs]string{"start", "crash", "delete", "wipe", "cut", "heal", "leave", "damage", "write", "turn", "part", "join", "scale",
	"api-silent", "api-back", "lose-record", "settle"}

func (e event) String() string {
	if e.do == silence || e.do == speak || e.do == forget || e.do == settle {
		return verbNames[e.do]
	}
	if e.do == part || e.do == join {
		return fmt.Sprint(verbNames[e.do], " ", e.arg/maxPods, "-", e.arg%maxPods)
	}
	return fmt.Sprint(verbNames[e.do], " ", e.arg)
}

// events are all that can be tried.
func events(pods int) (all []event) {
	for do := range verbs {
		switch do {
		case silence, speak, forget, settle:
			all = append(all, event{do, 0})
		case part, join:
			for a := range pods {
				for b := range a {
					all = append(all, event{do, b*maxPods + a})
				}
			}
		case scale:
			for n := 1; n <= pods; n++ {
				all = append(all, event{do, n})
			}
		default:
			for p := range pods {
				all = append(all, event{do, p})
			}
		}
	}
	return all
}

// mayStart says whether Kubernetes would start a pod: an order of pods holds until
// each was created, and a container that ends is started again.
func (m *model) mayStart(p int) bool {
	q := &m.pods[p]
	if q.up || q.exists || p >= m.replicas {
		return !q.up && q.exists
	}
	if m.ordered {
		for o := range p {
			if !m.pods[o].exists || m.notReady(o) != "" {
				return false
			}
		}
	}
	return true
}

// happen has an event happen, if it can.
func (m *model) happen(e event) bool {
	m.prudent, m.patient = false, false
	if e.do <= turn {
		return m.happenTo(&m.pods[e.arg], e)
	}
	switch e.do {
	case part, join:
		a, b := e.arg/maxPods, e.arg%maxPods
		ok := (m.parted&pair(a, b) == 0) == (e.do == part) && (e.do == join || m.pods[a].up && m.pods[b].up)
		m.parted ^= pair(a, b)
		return ok
	case scale:
		ok := m.replicas != e.arg
		m.replicas = e.arg
		return ok
	case silence, speak:
		ok := m.silent != (e.do == silence)
		m.silent = e.do == silence
		return ok
	case forget:
		ok := m.record != record{}
		m.record = record{}
		return ok
	case settle:
		return m.settle()
	}
	return false
}

func (m *model) happenTo(q *pod, e event) (ok bool) {
	p := e.arg
	switch e.do {
	case start:
		if ok = m.mayStart(p); ok {
			m.begin(p)
		}
	case crash, remove:
		// In the order of pods the pod itself goes as well, for more happens then.
		ok = q.up || e.do == remove && q.exists
		m.stop(p)
		q.exists = q.exists && e.do == crash && p < m.replicas
	case wipe:
		ok = q.disk.member != 0
		*q = pod{cut: q.cut}
	case cut, heal:
		ok = q.cut != (e.do == cut) && q.up
		q.cut = e.do == cut
	case leave: // It is told to stop, and asks Kubernetes whether it is wanted.
		ok = q.up && p >= m.replicas && !m.silent && !q.stopping
		q.stopping = true
		if ok && q.disk.stage != data {
			m.stop(p)
			q.exists = false
		}
	case damage:
		ok = q.up && q.disk.stage == data && !q.disk.condemned
		if q.disk.condemned = q.disk.stage == data; ok {
			q.ready = false
		}
	case write:
		if ok = q.leads && m.writes < 14 && q.disk.end < maxLog; ok {
			m.writes++
			q.disk.append(entry{term: q.disk.term, write: m.writes})
		}
	case turn:
		before := m.world
		m.turn(p)
		ok = m.world != before
	}
	return ok
}

// settle has all pods take turns until nothing moves any more, and again when all
// who wait have waited for long.
func (m *model) settle() bool {
	first := m.world
	m.prudent = true
	for _, m.patient = range []bool{false, true} {
		for range 60 {
			before := m.world
			for p := range m.pods {
				m.turn(p)
			}
			if m.world == before {
				break
			}
		}
		for p := range m.pods { // Who does not ask again is forgotten.
			q := &m.pods[p]
			q.joins, q.caughts, q.leaves, q.votes = [maxPods]id{}, [maxPods]bool{}, [maxPods]id{}, [maxPods]bool{}
			if q.up && q.disk.stage == data {
				q.disk.base = q.commit // It was written to the database.
			}
		}
	}
	return m.world != first
}
