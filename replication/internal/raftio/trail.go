package raftio

import (
	"sync"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
)

const (
	// trailLength is how many entries another pod may be behind and still be
	// compared with: about a second of a full load.
	trailLength = 8192
)

// MarkProto is a mark on the wire.
func MarkProto(m replication.Mark) *peerv1.Mark {
	return &peerv1.Mark{Index: m.Index, Revision: m.Revision, Hash: m.Hash}
}

// MarkOf reads a mark from the wire; nil is the zero mark.
func MarkOf(m *peerv1.Mark) replication.Mark {
	return replication.Mark{Index: m.GetIndex(), Revision: m.GetRevision(), Hash: m.GetHash()}
}

// Trail are the marks of the entries that this pod applied last.
type Trail struct {
	mu     sync.Mutex // guards the fields below
	marks  [trailLength]replication.Mark
	newest replication.Mark
}

// Note adds the mark of the entry that was applied last.
func (t *Trail) Note(m replication.Mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newest, t.marks[m.Index%trailLength] = m, m
}

// Last is the newest mark.
func (t *Trail) Last() replication.Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.newest
}

// At returns the zero mark when it is not known what this pod had after an entry.
func (t *Trail) At(index uint64) replication.Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.marks[index%trailLength]; m.Index == index {
		return m
	}
	return replication.Mark{}
}
