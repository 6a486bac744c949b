package policy_test

import "slices"

// canonical renames what has no meaning but to be the same or not, or earlier or
// later, so that states that differ in nothing else are one: incarnations, terms,
// and what all logs begin with.
func (m *model) canonical() {
	m.dropPrefix()
	m.renumberTerms()
	m.renumberIDs()
}

// dropPrefix shortens all logs by what each database has.
func (m *model) dropPrefix() {
	var first *disk
	k := uint8(0)
	for p := range m.pods {
		d := &m.pods[p].disk
		switch {
		case d.stage == empty:
		case d.stage == bootstrapping, first != nil && d.cluster != first.cluster:
			return
		case first == nil:
			first, k = d, d.base
		default:
			k = min(k, d.base)
		}
	}
	if k < 2 {
		return
	}
	for p := range m.pods {
		d := &m.pods[p].disk
		if d.stage == data && !slices.Equal(d.log[1:k+1], first.log[1:k+1]) {
			return
		}
	}
	members, _ := first.latest(k)
	gone := uint16(0)
	for _, e := range first.log[1 : k+1] {
		gone |= 1 << e.write
	}
	m.acked &^= gone
	kept := false
	for p := range m.pods {
		d := &m.pods[p].disk
		if d.stage != data {
			continue
		}
		copy(d.log[1:], d.log[k:])
		d.end -= k - 1
		clear(d.log[d.end+1:])
		d.log[1].members, d.log[1].write = members, 0
		d.base -= k - 1
		if m.pods[p].up {
			m.pods[p].commit -= k - 1
		}
		if d.joined > 0 {
			d.joined = max(d.joined, k) - (k - 1)
		}
		for _, e := range d.log[1 : d.end+1] {
			kept = kept || e.write != 0
		}
	}
	for i := range m.counted {
		m.counted[i] -= min(m.counted[i], k-1)
	}
	if !kept {
		m.writes, m.acked = 0, 0
	}
}

// renumberTerms keeps the order of terms, and that there is none between two.
func (m *model) renumberTerms() {
	var used [maxTerms + 2]bool
	least := uint8(maxTerms)
	for p := range m.pods {
		d := &m.pods[p].disk
		used[d.term] = true
		if d.stage == data {
			least = min(least, d.term)
		}
		for _, e := range d.log[1 : d.end+1] {
			used[e.term] = true
		}
	}
	for t := range m.elected {
		for p := range m.voted {
			if t <= int(least) {
				m.voted[p][t] = 0 // Nobody can ask for a vote in it any more.
			}
			used[t] = used[t] || m.voted[p][t] != 0
		}
		if t <= int(least) && !m.leading(uint8(t)) {
			m.elected[t] = 0
		}
		used[t] = used[t] || m.elected[t] != 0
	}
	var next [maxTerms + 2]uint8
	last, now := 0, uint8(0)
	for t := 1; t < len(used); t++ {
		if used[t] {
			now += uint8(min(t-last, 2))
			last, next[t] = t, now
		}
	}
	voted, elected := m.voted, m.elected
	clear(m.voted[:])
	clear(m.elected[:])
	for t := range elected {
		if used[t] {
			m.elected[next[t]] = elected[t]
			for p := range voted {
				m.voted[p][next[t]] = voted[p][t]
			}
		}
	}
	for p := range m.pods {
		d := &m.pods[p].disk
		d.term = next[d.term]
		for i := uint8(1); i <= d.end; i++ {
			d.log[i].term = next[d.log[i].term]
		}
	}
}

func (m *model) leading(term uint8) bool {
	for p := range m.pods {
		if m.pods[p].leads && m.pods[p].disk.term == term {
			return true
		}
	}
	return false
}

// eachID calls f with each place that names a member; what it puts there is kept.
func (m *model) eachID(f func(*id)) {
	visit := func(i *id) {
		if *i != 0 {
			f(i)
		}
	}
	slots := func(c *configuration) {
		for n, s := range c {
			if s != 0 {
				i := id(s &^ voting)
				f(&i)
				c[n] = s&voting | uint8(i)
			}
		}
	}
	for p := range m.pods {
		q := &m.pods[p]
		visit(&q.disk.member)
		visit(&q.disk.vote)
		visit(&q.master)
		for o := range m.pods {
			visit(&q.joins[o])
			visit(&q.leaves[o])
		}
		for i := uint8(1); i <= q.disk.end; i++ {
			if q.disk.log[i].members != (configuration{}) {
				slots(&q.disk.log[i].members)
			}
		}
		for t := range m.voted[p] {
			visit(&m.voted[p][t])
		}
	}
	for t := range m.elected {
		visit(&m.elected[t])
	}
	visit(&m.record.founder)
	slots(&m.committed)
}

func (m *model) renumberIDs() {
	var used [64]bool
	m.eachID(func(i *id) { used[*i] = true })
	var next [64]id
	same := true
	for p := range maxPods {
		n := 1
		for k := 1; k < 16; k++ {
			if i := makeID(p, k); used[i] {
				next[i] = makeID(p, n)
				same = same && n == k
				n++
			}
		}
	}
	if !same {
		m.eachID(func(i *id) { *i = next[*i] })
	}
	counted := m.counted
	clear(m.counted[:])
	for i, c := range counted {
		if used[i] {
			m.counted[next[i]] = c
		}
	}
	for p := range m.pods {
		q := &m.pods[p]
		if q.removed == 0 {
			continue
		}
		before := q.removed
		q.removed = 0
		for i := range 64 {
			if used[i] && before&(1<<i) != 0 {
				q.removed |= 1 << next[i]
			}
		}
	}
}

func bits(flags ...bool) (b uint8) {
	for i, f := range flags {
		if f {
			b |= 1 << i
		}
	}
	return b
}

// encode writes the world down, in some hundred bytes.
func (m *model) encode(b []byte) []byte {
	b = append(b, uint8(m.parted), uint8(m.parted>>8), uint8(m.replicas), bits(m.ordered, m.silent, m.founded), m.record.cluster, uint8(m.record.founder),
		m.clusters, m.writes, uint8(m.acked), uint8(m.acked>>8))
	b = append(b, m.committed[:]...)
	for p := range m.pods {
		q := &m.pods[p]
		d := &q.disk
		b = append(b, bits(q.used, q.exists, q.up, q.stopping, q.cut, q.cold, q.caught, q.leads), bits(q.ready, d.condemned), uint8(q.master), q.commit,
			uint8(d.member), d.cluster, uint8(d.stage), d.joined, d.term, uint8(d.vote), d.base, d.end)
		for _, e := range d.log[1 : d.end+1] {
			b = append(b, e.term, e.write)
			if e.members != (configuration{}) {
				b = append(b, 1)
				b = append(b, e.members[:]...)
			} else {
				b = append(b, 0)
			}
		}
		if q.leads {
			for o := range m.pods {
				b = append(b, uint8(q.joins[o]), uint8(q.leaves[o]), bits(q.caughts[o], q.votes[o]))
			}
			for i := range 8 {
				b = append(b, uint8(q.removed>>(8*i)))
			}
		}
	}
	sparse := func(n int, get func(int) uint8) {
		for i := range n {
			if v := get(i); v != 0 {
				b = append(b, uint8(i+1), v)
			}
		}
		b = append(b, 0)
	}
	for p := range m.voted {
		sparse(len(m.voted[p]), func(t int) uint8 { return uint8(m.voted[p][t]) })
	}
	sparse(len(m.elected), func(t int) uint8 { return uint8(m.elected[t]) })
	sparse(len(m.counted), func(i int) uint8 { return m.counted[i] })
	return b
}

// decode is the inverse of encode.
func (m *model) decode(b []byte) {
	m.world = world{}
	next := func() uint8 { v := b[0]; b = b[1:]; return v }
	flag := func(v uint8, n int) bool { return v&(1<<n) != 0 }
	m.parted = uint16(next())
	m.parted |= uint16(next()) << 8
	m.replicas = int(next())
	f := next()
	m.ordered, m.silent, m.founded = flag(f, 0), flag(f, 1), flag(f, 2)
	m.record = record{next(), id(next())}
	m.clusters, m.writes = next(), next()
	m.acked = uint16(next())
	m.acked |= uint16(next()) << 8
	b = b[copy(m.committed[:], b):]
	for p := range m.pods {
		q := &m.pods[p]
		d := &q.disk
		f, g := next(), next()
		q.used, q.exists, q.up, q.stopping = flag(f, 0), flag(f, 1), flag(f, 2), flag(f, 3)
		q.cut, q.cold, q.caught, q.leads = flag(f, 4), flag(f, 5), flag(f, 6), flag(f, 7)
		q.ready, d.condemned = flag(g, 0), flag(g, 1)
		q.master, q.commit = id(next()), next()
		d.member, d.cluster, d.stage, d.joined = id(next()), next(), stage(next()), next()
		d.term, d.vote, d.base, d.end = next(), id(next()), next(), next()
		for i := uint8(1); i <= d.end; i++ {
			d.log[i].term, d.log[i].write = next(), next()
			if next() == 1 {
				b = b[copy(d.log[i].members[:], b):]
			}
		}
		if q.leads {
			for o := range m.pods {
				q.joins[o], q.leaves[o] = id(next()), id(next())
				f := next()
				q.caughts[o], q.votes[o] = flag(f, 0), flag(f, 1)
			}
			for i := range 8 {
				q.removed |= uint64(next()) << (8 * i)
			}
		}
	}
	sparse := func(set func(int, uint8)) {
		for i := next(); i != 0; i = next() {
			set(int(i-1), next())
		}
	}
	for p := range m.voted {
		sparse(func(t int, v uint8) { m.voted[p][t] = id(v) })
	}
	sparse(func(t int, v uint8) { m.elected[t] = id(v) })
	sparse(func(i int, v uint8) { m.counted[i] = v })
}
