package replication

import (
	"fmt"
	"sync"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
)

const (
	// trailLength is how many entries another pod may be behind and still be
	// compared with: about a second of a full load.
	trailLength = 8192
)

// Mark is what a pod had after it applied an entry: the same on every pod (Raft
// paper, 5.2: state machine safety). Index 0: nothing is known.
type Mark struct {
	Index    uint64 // Of the entry.
	Revision int64
	Hash     uint64 // The running hash of all that was applied.
}

func (m Mark) proto() *peerv1.Mark {
	return &peerv1.Mark{Index: m.Index, Revision: m.Revision, Hash: m.Hash}
}

func markOf(m *peerv1.Mark) Mark {
	return Mark{Index: m.GetIndex(), Revision: m.GetRevision(), Hash: m.GetHash()}
}

func (m Mark) String() string {
	return fmt.Sprintf("revision %d and hash %016x", m.Revision, m.Hash)
}

// trail are the marks of the entries that this pod applied last.
type trail struct {
	mu     sync.Mutex // guards the fields below
	marks  [trailLength]Mark
	newest Mark
}

func (t *trail) note(m Mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newest, t.marks[m.Index%trailLength] = m, m
}

func (t *trail) last() Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.newest
}

// at returns the zero mark when it is not known what this pod had after an entry.
func (t *trail) at(index uint64) Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.marks[index%trailLength]; m.Index == index {
		return m
	}
	return Mark{}
}
