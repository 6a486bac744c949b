package oracle

import (
	"fmt"
	"hash/fnv"
	"sync"
)

// Log is what any pod has applied at each index. Its methods may be called by
// any goroutine.
type Log struct {
	fail func(error)

	mu      sync.Mutex // guards the fields below
	applied map[uint64]entry
	next    map[uint64]uint64 // the index after each index
	broken  bool
}

// entry is what one pod, the first, applied at an index.
type entry struct {
	before, term, hash uint64
	pod                string
}

func (e entry) String() string {
	return fmt.Sprintf("term %d, data %016x, after entry %d", e.term, e.hash, e.before)
}

// New is an empty log. fail is called once, at the first difference, by the
// goroutine that records it.
func New(fail func(error)) *Log {
	return &Log{fail: fail, applied: map[uint64]entry{}, next: map[uint64]uint64{}}
}

// Observe is replication.Options.Observe of a pod: it records one entry that the
// pod is about to apply, after the one at before.
func (l *Log) Observe(pod string) func(before, index, term uint64, data []byte) {
	return func(before, index, term uint64, data []byte) {
		h := fnv.New64a()
		h.Write(data)
		if err := l.record(index, entry{before, term, h.Sum64(), pod}); err != nil {
			l.fail(err)
		}
	}
}

func (l *Log) record(index uint64, e entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return nil
	}
	seen, ok := l.applied[index]
	after, followed := l.next[e.before]
	same := e
	same.pod = seen.pod
	switch {
	case ok && same != seen:
		l.broken = true
		return fmt.Errorf("entry %d differs: %s applies %s; %s had %s", index, e.pod, e, seen.pod, seen)
	case !ok && followed:
		// One of the two applied an entry that the other one never gets.
		l.broken = true
		return fmt.Errorf("after entry %d %s applies entry %d (%s); %s had entry %d (%s)",
			e.before, e.pod, index, e, l.applied[after].pod, after, l.applied[after])
	case !ok:
		l.applied[index], l.next[e.before] = e, index
	}
	return nil
}

// Len is how many entries were recorded.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.applied)
}
