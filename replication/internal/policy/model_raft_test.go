package policy_test

import (
	"github.com/batondb/baton/replication/internal/policy"
)

// follow makes a pod follow a term, and forget whom it voted for in an earlier one.
func (m *model) follow(p int, term uint8, master id) {
	q := &m.pods[p]
	if term > q.disk.term {
		q.disk.term, q.disk.vote = term, 0
	}
	if q.leads {
		q.leads, q.ready = false, false
		q.joins, q.caughts, q.leaves, q.votes = [maxPods]id{}, [maxPods]bool{}, [maxPods]id{}, [maxPods]bool{}
	}
	q.master = master
}

// campaign has a pod stand for election, and says whether it won. With transfer the
// others do not hold on to the master that asked it to.
func (m *model) campaign(p int, transfer bool) bool {
	q := &m.pods[p]
	d := &q.disk
	now, _ := d.latest(d.end)
	voters := now.voters()
	if m.prudent && !transfer {
		would := 0
		for _, v := range voters { // Who knows of a later term says so.
			if q := m.pods[v.pod()].disk; m.answers(p, v) && q.term > d.term {
				m.follow(p, q.term, 0)
			}
		}
		for _, v := range voters {
			if v == d.member || m.answers(p, v) && m.wouldGrant(v.pod(), p, d.term+1, false, true) == grant {
				would++
			}
		}
		if would*2 <= len(voters) {
			return false
		}
	}
	if d.term >= maxTerms || d.end >= maxLog {
		return false
	}
	m.follow(p, d.term+1, 0)
	term := d.term
	m.voteFor(p, d.member)
	granted := 0
	for _, v := range voters {
		if v == d.member {
			granted++
		} else if m.answers(p, v) && m.requestVote(v.pod(), p, term, transfer) {
			granted++
		}
		if d.term != term {
			return false // A later term was heard of.
		}
	}
	m.tell(p, "stands for election in term %d: %d of %d votes", term, granted, len(voters))
	if granted*2 <= len(voters) {
		return false
	}
	if m.lead(p); m.prudent {
		m.replicate(p) // It is heard of before another one stands.
	}
	return true
}

func (m *model) lead(p int) {
	q := &m.pods[p]
	d := &q.disk
	if other := m.elected[d.term]; other != 0 && other != d.member {
		m.violated("two masters in term %d: %s and %s", d.term, other.name(), d.member.name())
	}
	m.elected[d.term] = d.member
	has := uint16(0)
	for _, e := range d.log[1 : d.end+1] {
		if e.write != 0 {
			has |= 1 << e.write
		}
	}
	if m.acked&^has != 0 {
		m.violated("an acknowledged write is lost: %s was elected without it", d.member.name())
	}
	q.leads, q.ready, q.master, q.removed = true, false, d.member, 0
	d.append(entry{term: d.term})
}

type reply int

const (
	refuse reply = iota
	refuseTerm
	grant
)

// wouldGrant says what a voter answers a candidate; whom it voted for before is no
// matter when it is only asked whether it would.
func (m *model) wouldGrant(v, candidate int, term uint8, transfer, would bool) reply {
	q, c := &m.pods[v], &m.pods[candidate]
	now, _ := q.disk.latest(q.disk.end)
	in, votes := now.find(c.disk.member)
	other := q.master
	last, own := c.disk.last(), q.disk.last()
	switch {
	case now != (configuration{}) && !in:
		return refuse
	case other != 0 && other != c.disk.member && !transfer && m.leadsAt(v, other):
		return refuse
	case term < q.disk.term:
		return refuse
	case !votes:
		return refuseTerm
	case !would && term == q.disk.term && q.disk.vote != 0 && q.disk.vote != c.disk.member:
		return refuseTerm
	case last.Term < own.Term || last.Term == own.Term && last.Index < own.Index:
		return refuseTerm
	}
	return grant
}

// leadsAt says whether a pod hears a master: one that is not a member any more does not.
func (m *model) leadsAt(p int, master id) bool {
	q, d := &m.pods[master.pod()], &m.pods[p].disk
	now, _ := q.disk.latest(q.disk.end)
	in, _ := now.find(d.member)
	return in && m.answers(p, master) && q.leads && q.disk.term >= d.term
}

func (m *model) requestVote(v, candidate int, term uint8, transfer bool) bool {
	q := &m.pods[v]
	answer := m.wouldGrant(v, candidate, term, transfer, false)
	if answer == refuse {
		if q.disk.term > term {
			m.follow(candidate, q.disk.term, 0)
		}
		return false
	}
	if term > q.disk.term {
		m.follow(v, term, 0)
	}
	if answer == grant {
		m.voteFor(v, m.pods[candidate].disk.member)
		return true
	}
	return false
}

// voteFor writes a vote to the disk, and looks whether it is the only one.
func (m *model) voteFor(v int, candidate id) {
	d := &m.pods[v].disk
	if before := m.voted[v][d.term]; before != 0 && before != candidate {
		m.violated("two votes of kv-%d in term %d: for %s and for %s", v, d.term, before.name(), candidate.name())
	}
	if m.counted[d.member] > d.end {
		m.violated("a vote with a forgotten log: %s was counted for entry %d, and votes with %d", d.member.name(), m.counted[d.member], d.end)
	}
	m.voted[v][d.term] = candidate
	d.vote = candidate
}

// replicate sends the master's log to all members that it reaches, and commits what
// a majority has. A master that reaches no quorum steps down.
func (m *model) replicate(p int) {
	q := &m.pods[p]
	d := &q.disk
	now, at := d.latest(d.end)
	var acks []id
	for _, s := range now {
		to := id(s &^ voting)
		switch {
		case s == 0 || to != d.member && !m.answers(p, to):
			continue
		case to != d.member && m.pods[to.pod()].disk.term > d.term:
			m.follow(p, m.pods[to.pod()].disk.term, 0)
			return
		case to != d.member:
			m.store(to.pod(), p)
		}
		if s&voting != 0 {
			acks = append(acks, to)
		}
	}
	voters := now.voters()
	if len(acks)*2 <= len(voters) {
		m.follow(p, d.term, 0)
		m.tell(p, "has no quorum, and leads no more")
		return
	}
	if d.log[d.end].term != d.term || q.commit == d.end {
		q.ready = q.ready || d.log[q.commit].term == d.term && !d.condemned
		return
	}
	for _, to := range acks {
		m.counted[to] = max(m.counted[to], d.end)
	}
	for i := q.commit + 1; i <= d.end; i++ {
		if w := d.log[i].write; w != 0 && m.acked&(1<<w) == 0 {
			m.acked |= 1 << w
			m.tell(p, "acknowledges write %d", w)
		}
	}
	if at > q.commit {
		m.committed = now
		m.tell(p, "has committed: %s", now)
	}
	q.commit = d.end
	if !q.ready && !d.condemned {
		q.ready = true
		m.tell(p, "is the master in term %d", d.term)
	}
}

// store has a follower take the master's log. What it has beyond it stays until
// there is a conflict, as always.
func (m *model) store(to, master int) {
	q, l := &m.pods[to], &m.pods[master]
	m.follow(to, l.disk.term, l.disk.member)
	same := uint8(0)
	for same < q.disk.end && same < l.disk.end && q.disk.log[same+1] == l.disk.log[same+1] {
		same++
	}
	if same < l.disk.end {
		if same < q.commit {
			m.violated("a committed entry is replaced: entry %d of kv-%d", same+1, to)
		}
		clear(q.disk.log[same+1:])
		copy(q.disk.log[same+1:], l.disk.log[same+1:l.disk.end+1])
		q.disk.end = l.disk.end
	}
	q.commit = max(q.commit, min(l.commit, l.disk.end))
	q.caught = q.caught || l.ready && q.commit == l.commit
}

// hears says whether the master hears a member.
func (m *model) hears(p int, to id) bool {
	return to == m.pods[p].disk.member || m.answers(p, to)
}

// stillLeads says whether a quorum confirms, now, that a pod leads.
func (m *model) stillLeads(p int) bool {
	q := &m.pods[p]
	now, _ := q.disk.latest(q.disk.end)
	n := 0
	for _, v := range now.voters() {
		if m.hears(p, v) && m.pods[v.pod()].disk.term <= q.disk.term {
			n++
		}
	}
	return q.leads && q.ready && n*2 > len(now.voters())
}

// handOver has the best successor stand, which has all that the master has.
func (m *model) handOver(p int) bool {
	q := &m.pods[p]
	now, _ := q.disk.latest(q.disk.end)
	wanted := m.wanted()
	var from []policy.Successor
	for _, v := range now.voters() {
		if v == q.disk.member || !m.answers(p, v) {
			continue
		}
		s := &m.pods[v.pod()]
		from = append(from, policy.Successor{ID: v.name(), Last: uint64(s.disk.end), Stopping: s.stopping || s.disk.condemned, Unwanted: wanted.Excludes(v.pod())})
	}
	for _, name := range m.successors(q.disk.member.name(), uint64(q.disk.end), from) {
		to := idOf(name).pod()
		m.store(to, p)
		m.tell(p, "hands the baton to %s", name)
		if m.campaign(to, true) {
			return true
		}
	}
	return false
}
