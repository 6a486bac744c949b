package raftlog

// markEvery is the resolution, in bytes, of what marks knows.
const markEvery = 64 << 10

// marks knows how many bytes a range of the log has, to about 64 KiB, without
// remembering every entry.
//
// Example: entries 1..9 of 30 KiB each give the marks {1, 0}, {4, 90 KiB},
// {7, 180 KiB} and total 270 KiB; the log from 4 on has 180 KiB.
type marks struct {
	list  []mark
	total int64 // bytes ever added, less what was cut from the end
}

type mark struct {
	index  uint64 // the first entry of a chunk
	before int64  // total before it
}

func (m *marks) add(index uint64, size int) {
	if n := len(m.list); n == 0 || m.total-m.list[n-1].before >= markEvery {
		m.list = append(m.list, mark{index, m.total})
	}
	m.total += int64(size)
}

// bytes that the log has.
func (m *marks) bytes() int64 {
	if len(m.list) == 0 {
		return 0
	}
	return m.total - m.list[0].before
}

// keepLast returns the first index such that the log from it on has about n bytes.
func (m *marks) keepLast(n int64) uint64 {
	for _, k := range m.list {
		if m.total-k.before <= n {
			return k.index
		}
	}
	if len(m.list) == 0 {
		return 0
	}
	return m.list[len(m.list)-1].index
}

// cutFront forgets the entries up to and including max.
func (m *marks) cutFront(max uint64) {
	i := 0
	for i+1 < len(m.list) && m.list[i+1].index <= max+1 {
		i++
	}
	m.list = append(m.list[:0], m.list[i:]...)
}

// cutBack forgets the entries from min on.
func (m *marks) cutBack(min uint64) {
	for n := len(m.list); n > 0 && m.list[n-1].index >= min; n-- {
		m.total = m.list[n-1].before
		m.list = m.list[:n-1]
	}
}

func (m *marks) reset() { *m = marks{} }
