package policy_test

import (
	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
)

// turn has a pod do what it does before it has to wait for another.
func (m *model) turn(p int) {
	q := &m.pods[p]
	switch {
	case !q.up || m.wrong != "":
		return
	case q.disk.stage == empty:
		m.arrive(p)
		return
	case q.disk.stage == bootstrapping:
		d := &q.disk
		d.stage, d.term, d.base = data, 1, 1
		d.append(entry{term: 1, members: configuration{}.with(policy.Promote, d.member)})
		q.commit = 1 // By being the only member's.
		m.committed = d.log[1].members
	}
	m.keepRecord(p)
	if q.leads {
		m.replicate(p)
	}
	if q.leads {
		m.change(p)
	} else {
		m.attend(p)
	}
	m.belong(p)
}

// keepRecord writes the record if it is missing.
func (m *model) keepRecord(p int) {
	if !m.silent && !m.listed && m.record == (record{}) {
		m.record = record{cluster: m.pods[p].disk.cluster}
		m.tell(p, "writes the cluster record")
	}
}

// arrive is a turn of a pod without data.
func (m *model) arrive(p int) {
	q := &m.pods[p]
	d := &q.disk
	a := policy.Arrival{
		Pod: podNames[p], Cluster: clusterNames[d.cluster], Candidates: policy.NearestBelow(podNames[p], podNames[:]),
		Wanted: m.wanted(), Seen: m.seen(p), Absent: m.absent(),
	}
	if m.listed {
		a.Peers = podNames[:m.replicas]
	} else if !a.Unwanted() && a.Asks() {
		a.Sign = m.sign(p, a)
	}
	c := m.policies.arrive(a)
	q.cold = c.Cold
	m.tell(p, "%s, because %s%s", c.Do, c.Because, map[bool]string{true: "; it is ready, so that the next pod is created"}[c.Cold])
	if c.Meet {
		d.cluster = clusterOf(c.Cluster)
	}
	switch c.Do {
	case policy.Initialize:
		if c.Cluster == "" {
			m.clusters++
			c.Cluster = clusterNames[m.clusters]
		}
		m.initialize(p, clusterOf(c.Cluster))
	case policy.Clone:
		m.clone(p, podOf(c.Sources[0]))
	}
}

func clusterOf(name string) uint8 { return name[0] - 'A' + 1 }

// sign is what the API server says, as package kubernetes puts it.
func (m *model) sign(p int, a policy.Arrival) *policy.Sign {
	d := &m.pods[p].disk
	if m.silent {
		return &policy.Sign{Missing: "the API server does not answer"}
	}
	if m.record == (record{}) {
		if !m.fresh(a) {
			return &policy.Sign{Missing: "there is no cluster record"}
		}
		f := kubernetes.Founding{Set: "kv", Pod: podNames[p], Ordinals: kubernetes.Ordinals{Replicas: m.replicas}, Empty: a.Seen.Empty()}
		if m.replicas == 0 {
			f.Ordinals.Stopped = "the StatefulSet is scaled to zero"
		}
		for q := range m.pods {
			if q != p && m.pods[q].used {
				f.Used = append(f.Used, podNames[q])
			}
		}
		if because := m.founding(f); because != "" {
			return &policy.Sign{Missing: because}
		}
		m.clusters++
		m.record = record{m.clusters, d.member}
		m.tell(p, "creates the cluster record: it founds the cluster %s", clusterNames[m.clusters])
	}
	return &policy.Sign{Cluster: clusterNames[m.record.cluster], Founds: m.record.founder == d.member}
}

func (m *model) initialize(p int, cluster uint8) {
	for q := range m.pods {
		if other := &m.pods[q].disk; q != p && other.stage != empty {
			m.violated("two clusters: kv-%d founds %s, and kv-%d has data of %s", p, clusterNames[cluster], q, clusterNames[other.cluster])
		}
	}
	// What there was is lost for good.
	m.acked, m.writes, m.committed = 0, 0, configuration{}
	clear(m.voted[:])
	clear(m.elected[:])
	clear(m.counted[:])
	d := &m.pods[p].disk
	d.cluster, d.stage, m.founded = cluster, bootstrapping, true
}

func (m *model) clone(p, from int) {
	q, s := &m.pods[p], &m.pods[from]
	if s.disk.condemned {
		m.violated("kv-%d clones from kv-%d, whose data is of no use", p, from)
	}
	d := &q.disk
	d.stage, d.end, d.base = data, s.commit, s.commit
	copy(d.log[:], s.disk.log[:s.commit+1])
	d.term = max(d.term, d.log[d.end].term)
	q.commit, q.cold = d.end, false
}

// change is a master's turn.
func (m *model) change(p int) {
	q := &m.pods[p]
	d := &q.disk
	now, at := d.latest(d.end)
	if (q.stopping || d.condemned) && m.handOver(p) {
		return
	}
	if !q.ready || at > q.commit || d.end >= maxLog {
		return
	}
	c := m.next(m.situation(p, now))
	if c.Do == policy.Nothing {
		return
	}
	i := idOf(c.Member)
	if c.Do == policy.Demote { // The others must confirm, see confirmWithout.
		for _, v := range now.voters() {
			if v != i && !m.hears(p, v) {
				return
			}
		}
	}
	m.tell(p, "%s %s, because %s", c.Do, c.Member, c.Because)
	if c.Do == policy.Remove {
		q.removed |= 1 << i
	}
	next := now.with(c.Do, i)
	d.append(entry{term: d.term, members: next})
	m.sound(p, next)
}

// sound looks at a membership that a master has decided.
func (m *model) sound(p int, c configuration) {
	alive, voters := 0, c.voters()
	pods := map[int]bool{}
	for _, v := range voters {
		if pods[v.pod()] {
			m.violated("two votes of kv-%d in one membership: %s", v.pod(), c)
		}
		pods[v.pod()] = true
		if m.hears(p, v) {
			alive++
		}
	}
	if alive*2 <= len(voters) {
		m.violated("a membership that cannot commit: %s, of which %d answer", c, alive)
	}
}

func (m *model) situation(p int, now configuration) policy.Situation {
	q := &m.pods[p]
	s := policy.Situation{
		Self: q.disk.member.name(), Members: now.members(), Wanted: m.wanted(),
		Joining: map[replication.MemberID]bool{}, Leaving: map[replication.MemberID]bool{}, Recloning: map[replication.MemberID]bool{},
		Alive: map[replication.MemberID]bool{}, Behind: map[replication.MemberID]bool{}, Overdue: map[replication.MemberID]bool{},
	}
	for _, o := range s.Members {
		i := idOf(o.ID)
		s.Alive[o.ID] = m.hears(p, i)
		s.Behind[o.ID] = m.pods[i.pod()].disk.member == i && m.pods[i.pod()].disk.end < q.commit
		s.Overdue[o.ID] = m.patient && s.Wanted.Excludes(replication.Ordinal(o.ID.Pod()))
	}
	for o := range m.pods {
		if i := q.joins[o]; i != 0 {
			s.Joining[i.name()] = q.caughts[o]
		}
		if i := q.leaves[o]; i != 0 {
			s.Leaving[i.name()], s.Recloning[i.name()] = !q.votes[o], q.votes[o]
		}
	}
	return s
}

// attend is a turn of a pod that does not lead: who has no master stands.
func (m *model) attend(p int) {
	q := &m.pods[p]
	if q.master != 0 && q.master != q.disk.member && m.leadsAt(p, q.master) {
		return
	}
	q.master = 0
	now, _ := q.disk.latest(q.disk.end)
	for o := range m.pods { // Who leads is heard of soon.
		if i := m.pods[o].disk.member; o != p && i != 0 && m.leadsAt(p, i) {
			return
		}
	}
	if _, votes := now.find(q.disk.member); votes {
		m.campaign(p, false)
	}
}

// belong has a pod look after its own membership.
func (m *model) belong(p int) {
	q := &m.pods[p]
	d := &q.disk
	now, at := d.latest(q.commit)
	votes, joined, removed := m.review(policy.Standing{Self: d.member.name(), Members: now.members(), Index: uint64(at), Joined: uint64(d.joined)})
	switch {
	case removed != "":
		m.retire(p, "its member was removed")
		return
	case joined:
		d.joined = at
	}
	if q.leads {
		q.caught = q.caught || q.ready
	}
	if q.master != 0 {
		q.cold = false
	}
	master, ok := m.masterOf(p)
	if !votes || q.master == 0 {
		m.join(p, master, ok)
	}
	if q.disk.stage == data && ok && master != p {
		m.askOut(p, master)
	}
}

// masterOf is whom a pod asks: the master that it follows, or one that says so.
func (m *model) masterOf(p int) (master int, ok bool) {
	if i := m.pods[p].master; i != 0 {
		return i.pod(), true
	}
	name, ok := m.seen(p).Master()
	if !ok {
		return 0, false
	}
	return podOf(name), true
}

func (m *model) join(p, master int, ok bool) {
	q := &m.pods[p]
	d := &q.disk
	if !ok {
		c := policy.Quorum{Self: d.member.name(), Last: d.last(), Seen: m.seen(p), Absent: m.absent()}
		latest, _ := d.latest(d.end)
		for _, v := range latest.voters() {
			c.Voters = append(c.Voters, v.name())
		}
		q.cold = m.missing(c)
		return
	}
	l := &m.pods[master]
	if master == p || d.condemned || !l.ready || !m.reach(p, master) {
		return
	}
	committed, _ := l.disk.latest(l.commit)
	latest, _ := l.disk.latest(l.disk.end)
	a := policy.Admission{Member: d.member.name(), Returning: d.joined > 0, Removed: l.removed&(1<<d.member) != 0,
		Committed: committed.members(), Latest: latest.members()}
	switch m.answer(a) {
	case policy.WasRemoved:
		if m.stillLeads(master) {
			m.retire(p, "its member was removed")
		}
	case policy.Admit:
		if l.leaves[p] == d.member || l.removed&(1<<d.member) != 0 {
			return
		}
		l.joins[p], l.caughts[p] = d.member, q.commit >= l.commit
	}
}

// askOut asks to leave, or for the vote to be taken from data of no use.
func (m *model) askOut(p, master int) {
	q, l := &m.pods[p], &m.pods[master]
	d := &q.disk
	reclones := d.condemned && !q.stopping
	if !reclones && !q.stopping || !l.ready || !m.reach(p, master) {
		return
	}
	l.leaves[p], l.votes[p] = d.member, reclones
	if l.joins[p] == d.member {
		l.joins[p] = 0
	}
	committed, _ := l.disk.latest(l.commit)
	latest, _ := l.disk.latest(l.disk.end)
	for _, c := range []configuration{committed, latest} {
		if in, votes := c.find(d.member); votes || in && !reclones {
			if because := m.mustStay(m.situation(master, latest), d.member.name()); reclones && because != "" {
				m.tell(p, "keeps its data, which is of no use: %s", because)
			}
			return
		}
	}
	if m.stillLeads(master) {
		m.retire(p, map[bool]string{false: "it left", true: "it is of no use, and has no vote any more"}[reclones])
	}
}

// retire gives an identity up: the pod starts again as a new member, or has left.
func (m *model) retire(p int, because string) {
	q := &m.pods[p]
	m.tell(p, "gives its data up, because %s", because)
	if now := m.committed; now != (configuration{}) {
		if _, votes := now.find(q.disk.member); votes {
			m.violated("%s gives its data up, and still votes", q.disk.member.name())
		}
	}
	cluster, stopping := q.disk.cluster, q.stopping
	m.stop(p)
	q.disk = disk{member: m.mint(p), cluster: cluster}
	if stopping {
		q.exists = false
		return
	}
	m.begin(p)
}

// mint makes a new incarnation: one that no pod knows.
func (m *model) mint(p int) id {
	used := uint16(0)
	m.eachID(func(i *id) {
		if i.pod() == p {
			used |= 1 << i.incarnation()
		}
	})
	for n := 1; n < 16; n++ {
		if used&(1<<n) == 0 {
			m.counted[makeID(p, n)] = 0
			clear(m.voted[p][:])
			return makeID(p, n)
		}
	}
	panic("too many incarnations")
}

// stop ends a process: what is only in memory is gone.
func (m *model) stop(p int) {
	q := &m.pods[p]
	*q = pod{disk: q.disk, used: q.used, exists: q.exists, cut: q.cut}
}

// begin starts a process.
func (m *model) begin(p int) {
	q := &m.pods[p]
	q.up, q.exists, q.used = true, true, true
	if q.disk.member == 0 {
		if q.disk.member = m.mint(p); m.keepsName && p > 0 { // The record would have the first one found again.
			q.disk.member = makeID(p, 1)
		}
	}
	q.commit = q.disk.base
}
