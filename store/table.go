package store

import (
	"bytes"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/batondb/baton/internal/access"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// table holds what was applied since the table before it was frozen. The
// applying goroutine writes; readers come at any time; the flusher reads it
// once it is frozen.
type table struct {
	kv *skiplist // To be read through sorted.

	backlog backlog

	base int64 // The newest revision when the table was begun: it holds those above.

	// mu guards the header of log and the leases. What is in the log up to its
	// length does not change.
	mu        sync.RWMutex
	log       []logEntry
	leaseKeys map[int64]map[string]bool // Lease, key: attached or detached.

	// nodes has each key's node by the hash of the key: a search in kv is slower.
	// Only for the applying goroutine.
	nodes map[uint64]*node

	// Only for the applying goroutine, and for the flusher after the freeze.
	leases   map[int64]*kvv1.Lease // nil: ended.
	access   *access.State         // nil: as before.
	requests map[requestKey]request
	state    state // After the last entry that went into this table.

	requestBytes atomic.Int64

	changes []*tableVersion // Room for the changes of log entries.
}

// backlog is what is not in the skip list yet.
type backlog struct {
	// unsorted are nodes that nobody inserts yet, and pending counts all that are
	// not in kv: those and the ones that are being inserted.
	unsortedMu sync.Mutex // guards unsorted
	unsorted   []*node
	pending    atomic.Int64
	sorting    sync.Mutex // Held to insert; comes before unsortedMu.
}

// logEntry is one revision.
type logEntry struct {
	revision int64
	changes  []*tableVersion // At least one.
}

func (e *logEntry) hash() uint64 { return recordHash(e.changes[0].record) }

// newTable returns an empty table that goes on from st, for keys that mostly
// begin with prefix.
func newTable(prefix []byte, st state) *table {
	return &table{
		kv:        newSkiplist(prefix),
		nodes:     map[uint64]*node{},
		base:      st.Revision,
		state:     st,
		leaseKeys: map[int64]map[string]bool{},
		leases:    map[int64]*kvv1.Lease{},
		requests:  map[requestKey]request{},
	}
}

// requestOverhead is about what a remembered request takes besides its result,
// and enough that a table is full before it has more than are remembered.
const requestOverhead = 256

// size is about how many bytes the table holds.
func (t *table) size() int64 { return t.kv.size.Load() + t.requestBytes.Load() }

func (t *table) remember(key requestKey, r request) {
	t.requests[key] = r
	t.requestBytes.Add(int64(requestOverhead + len(r.result)))
}

// appendLog adds a revision; changes are copied.
func (t *table) appendLog(revision int64, changes []*tableVersion) {
	if len(t.changes) < len(changes) {
		t.changes = make([]*tableVersion, max(chunk, len(changes)))
	}
	kept := t.changes[:len(changes):len(changes)]
	t.changes = t.changes[len(changes):]
	copy(kept, changes)
	t.mu.Lock()
	t.log = append(t.log, logEntry{revision: revision, changes: kept})
	t.mu.Unlock()
}

// logFrom gives the entries at and after a revision.
func (t *table) logFrom(revision int64) []logEntry {
	t.mu.RLock()
	log := t.log
	t.mu.RUnlock()
	at := sort.Search(len(log), func(i int) bool { return log[i].revision >= revision })
	return log[at:]
}

// logged returns the version at a place, or nil: the table does not have it.
func (t *table) logged(at place) *tableVersion {
	if at.revision <= t.base {
		return nil
	}
	log := t.logFrom(at.revision)
	if len(log) == 0 || log[0].revision != at.revision || int(at.part) >= len(log[0].changes) {
		return nil
	}
	return log[0].changes[at.part]
}

// find returns the node of a key, or nil. For the applying goroutine.
func (t *table) find(key []byte) *node {
	n := t.nodes[xxhash.Sum64(key)]
	if n == nil || bytes.Equal(n.key, key) {
		return n
	}
	return t.sorted().get(key) // Two keys with one hash.
}

// add puts a version in front of those of n, or of a new node when n is nil.
func (t *table) add(n *node, at place, record []byte) *tableVersion {
	v := t.kv.newVersion(at, record)
	if n != nil {
		v.older = n.newest.Load()
		n.newest.Store(v)
		return v
	}
	key := recordKey(record)
	n = t.kv.newNode(key, v)
	t.nodes[xxhash.Sum64(key)] = n
	t.backlog.unsortedMu.Lock()
	t.backlog.unsorted = append(t.backlog.unsorted, n)
	t.backlog.unsortedMu.Unlock()
	t.backlog.pending.Add(1)
	return v
}

// sorted returns the list with all keys of the table in it. Who reads it sorts
// what is new: to insert many keys at once takes a fraction of the time of
// finding the place of each, and the applying goroutine has none to spare.
func (t *table) sorted() *skiplist {
	if t.backlog.pending.Load() > 0 {
		t.backlog.sorting.Lock()
		defer t.backlog.sorting.Unlock()
		t.sort()
	}
	return t.kv
}

// maxUnsorted bounds what a reader may have to sort, to about a millisecond.
const maxUnsorted = 4096

// tidy is called between entries. It waits for nobody.
func (t *table) tidy() {
	if t.backlog.pending.Load() >= maxUnsorted && t.backlog.sorting.TryLock() {
		defer t.backlog.sorting.Unlock()
		t.sort()
	}
}

func (t *table) sort() {
	t.backlog.unsortedMu.Lock()
	nodes := t.backlog.unsorted
	t.backlog.unsorted = nil
	t.backlog.unsortedMu.Unlock()
	t.kv.insert(nodes)
	t.backlog.pending.Add(-int64(len(nodes)))
}

func (t *table) setLeaseKey(lease int64, key []byte, attached bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := t.leaseKeys[lease]
	if keys == nil {
		keys = map[string]bool{}
		t.leaseKeys[lease] = keys
	}
	keys[string(key)] = attached
}

// tableSet is the active table and, while it is flushed, the frozen one.
type tableSet struct {
	active, frozen *table
}

// all gives the tables from the newest on.
func (ts *tableSet) all() []*table {
	if ts.frozen == nil {
		return []*table{ts.active}
	}
	return []*table{ts.active, ts.frozen}
}
