package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
)

// skiplist is a sorted list of keys, with one goroutine at a time that makes
// nodes, one that inserts them, and any number of readers that take no lock
// (Pugh, "Skip lists: a probabilistic alternative to balanced trees", 1990).
// Each key has a chain of versions, which only grows. Nodes and bytes are cut
// from large chunks, so that an entry costs the garbage collector next to nothing.
type skiplist struct {
	head   *node
	height atomic.Int32
	size   atomic.Int64 // Bytes in memory, about.

	// prefix is what hints leave out; any will do, the common one of the keys
	// is best.
	prefix []byte

	// Of the goroutine that makes nodes and versions.
	common   []byte // The longest prefix of all keys; nil: there are none.
	nodes    []node
	versions []tableVersion
	data     []byte

	// Of the one that inserts.
	links []atomic.Pointer[node]
}

const (
	maxHeight  = 16 // 4^16 entries: far more than a table holds.
	chunk      = 1024
	dataChunk  = 1 << 18
	branchMask = 3 // One node of four reaches the next level.

	// nodeOverhead is about what a key takes, and versionOverhead what a version
	// takes besides its record.
	nodeOverhead    = 120
	versionOverhead = 88
)

// node has in one cache line what a search mostly needs: the hint, and the
// links of the levels where most steps are made.
type node struct {
	hint   uint64
	near   [2]atomic.Pointer[node]
	newest atomic.Pointer[tableVersion]
	key    []byte
	far    []atomic.Pointer[node] // From level len(near) on.
}

// tableVersion is one version of a key in memory. Nothing in it changes once
// its revision can be read.
type tableVersion struct {
	place  place
	older  *tableVersion // The version before it in this list; nil: none.
	record []byte        // What the log will have.
}

// at gives the version that was valid at a revision, or nil: the list has none
// so old.
func (n *node) at(revision int64) *tableVersion {
	v := n.newest.Load()
	for v != nil && v.place.revision > revision {
		v = v.older
	}
	return v
}

func (v *tableVersion) read() (version, error) {
	_, ver, err := takeApart(v.place, v.record)
	return ver, err
}

func (n *node) link(level int) *atomic.Pointer[node] {
	if level < len(n.near) {
		return &n.near[level]
	}
	return &n.far[level-len(n.near)]
}

func (n *node) next() *node { return n.near[0].Load() }

// newSkiplist returns an empty list for keys that mostly begin with prefix.
func newSkiplist(prefix []byte) *skiplist {
	l := &skiplist{prefix: prefix}
	l.head = &node{far: make([]atomic.Pointer[node], maxHeight-2)}
	l.height.Store(1)
	return l
}

// hint maps keys to numbers that have the same order, where they differ: the
// eight bytes after the prefix; 0 or the largest number for a key that sorts
// before or after all with the prefix. Most comparisons end with it, without a
// look at the keys themselves, which lie elsewhere in memory.
func (l *skiplist) hint(key []byte) uint64 {
	if !bytes.HasPrefix(key, l.prefix) {
		if bytes.Compare(key, l.prefix) < 0 {
			return 0
		}
		return math.MaxUint64
	}
	rest := key[len(l.prefix):]
	if len(rest) >= 8 {
		return binary.BigEndian.Uint64(rest)
	}
	var padded [8]byte
	copy(padded[:], rest)
	return binary.BigEndian.Uint64(padded[:])
}

func (n *node) before(hint uint64, key []byte) bool {
	if n.hint != hint {
		return n.hint < hint
	}
	return bytes.Compare(n.key, key) < 0
}

// find returns the first node at or after key, or nil.
func (l *skiplist) find(key []byte) *node {
	hint := l.hint(key)
	before := l.head
	var next *node
	for level := int(l.height.Load()) - 1; level >= 0; level-- {
		for {
			n := before.link(level).Load()
			// A node that was the boundary one level up need not be compared again.
			if n == nil || n == next || !n.before(hint, key) {
				next = n
				break
			}
			before = n
		}
	}
	return next
}

// last gives the last node before key, or nil; a nil key is after all others.
func (l *skiplist) last(key []byte) *node {
	hint := l.hint(key)
	before := l.head
	for level := int(l.height.Load()) - 1; level >= 0; level-- {
		for n := before.link(level).Load(); n != nil; n = before.link(level).Load() {
			if key != nil && !n.before(hint, key) {
				break
			}
			before = n
		}
	}
	if before == l.head {
		return nil
	}
	return before
}

// get returns the node of a key, or nil.
func (l *skiplist) get(key []byte) *node {
	if n := l.find(key); n != nil && bytes.Equal(n.key, key) {
		return n
	}
	return nil
}

// newNode returns a node with its first version, to be inserted later. It keeps
// key.
func (l *skiplist) newNode(key []byte, first *tableVersion) *node {
	if len(l.nodes) == 0 {
		l.nodes = make([]node, chunk)
	}
	n := &l.nodes[0]
	l.nodes = l.nodes[1:]
	n.hint, n.key = l.hint(key), key
	n.newest.Store(first)
	if l.common == nil {
		l.common = key
	}
	l.common = l.common[:commonPrefix(l.common, key)]
	l.size.Add(nodeOverhead)
	return n
}

// countingBytes is what the prefix for the next list's hints leaves out of the
// one that all keys of this list share: keys that count up, or have the time in
// them, soon leave that one.
const countingBytes = 3

// nextPrefix is what the hints of the list after this one should leave out.
func (l *skiplist) nextPrefix() []byte {
	if l.common == nil {
		return l.prefix
	}
	return bytes.Clone(l.common[:max(0, len(l.common)-countingBytes)])
}

func commonPrefix(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// splice is where a key belongs: the last node before it on each level.
type splice [maxHeight]*node

// insert adds new nodes. It sorts them, so that the way from one's place to the
// next one's is short.
func (l *skiplist) insert(nodes []*node) {
	slices.SortFunc(nodes, func(a, b *node) int {
		return cmp.Or(cmp.Compare(a.hint, b.hint), bytes.Compare(a.key, b.key))
	})
	var at splice
	for level := range at {
		at[level] = l.head
	}
	for _, n := range nodes {
		l.forward(&at, n)
		height := l.grow(n)
		for level := range height {
			n.link(level).Store(at[level].link(level).Load())
		}
		// From the bottom up: a reader that meets the node finds it whole.
		for level := range height {
			at[level].link(level).Store(n)
			at[level] = n
		}
	}
}

// forward moves at from one key's place to a later key's: up while the next node
// comes before the later key, then down. ("Finger search", section 3.1 of Pugh, "A
// skip list cookbook", 1990.)
func (l *skiplist) forward(at *splice, to *node) {
	level, top := 0, int(l.height.Load())-1
	for level < top {
		n := at[level].link(level).Load()
		if n == nil || !n.before(to.hint, to.key) {
			break
		}
		level++
	}
	var reached *node // The last node before the place, when it is beyond at.
	for ; level >= 0; level-- {
		before := at[level]
		if reached != nil {
			before = reached
		}
		for n := before.link(level).Load(); n != nil && n.before(to.hint, to.key); n = before.link(level).Load() {
			before, reached = n, n
		}
		at[level] = before
	}
}

// grow gives a node its random height.
func (l *skiplist) grow(n *node) int {
	height := 1
	for bits := rand.Uint32(); height < maxHeight && bits&branchMask == 0; bits >>= 2 {
		height++
	}
	if far := height - len(n.near); far > 0 {
		if len(l.links) < far {
			l.links = make([]atomic.Pointer[node], chunk)
		}
		n.far = l.links[:far:far]
		l.links = l.links[far:]
	}
	if height > int(l.height.Load()) {
		l.height.Store(int32(height))
	}
	return height
}

// newVersion returns a version that is not in the list yet. It keeps record,
// which must come from alloc.
func (l *skiplist) newVersion(at place, record []byte) *tableVersion {
	if len(l.versions) == 0 {
		l.versions = make([]tableVersion, chunk)
	}
	v := &l.versions[0]
	l.versions = l.versions[1:]
	l.keep(record)
	v.place, v.record = at, record
	l.size.Add(int64(len(record) + versionOverhead))
	return v
}

// alloc returns an empty slice with room for n bytes; the next call takes back
// what newVersion was not given.
func (l *skiplist) alloc(n int) []byte {
	if n > dataChunk/4 {
		return make([]byte, 0, n)
	}
	if len(l.data) < n {
		l.data = make([]byte, dataChunk)
	}
	return l.data[:0:n]
}

func (l *skiplist) keep(record []byte) {
	if len(l.data) > 0 && &l.data[0] == &record[0] {
		l.data = l.data[len(record):]
	}
}
