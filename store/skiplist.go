package store

import (
	"bytes"
	"math/rand/v2"
	"sync/atomic"
)

// skiplist is a sorted list of (key, value) with one writer and any number of
// readers that take no lock (Pugh, "Skip lists: a probabilistic alternative to
// balanced trees", 1990). Entries are never changed or removed. Nodes and bytes
// are cut from large chunks, so that an entry costs the garbage collector
// next to nothing.
type skiplist struct {
	head   *node
	height atomic.Int32
	size   atomic.Int64 // Bytes in memory, about.

	nodes []node
	links []atomic.Pointer[node]
	data  []byte
}

const (
	maxHeight  = 16 // 4^16 entries: far more than a table holds.
	nodeChunk  = 1024
	linkChunk  = 2048
	dataChunk  = 1 << 18
	branchMask = 3 // One node of four reaches the next level.

	// nodeOverhead is about what an entry takes besides its key and value.
	nodeOverhead = 112
)

type node struct {
	key, value []byte
	next       []atomic.Pointer[node]
}

// splice is where a key belongs: the last node before it on each level.
type splice [maxHeight]*node

func newSkiplist() *skiplist {
	l := &skiplist{head: &node{next: make([]atomic.Pointer[node], maxHeight)}}
	l.height.Store(1)
	return l
}

// find fills at with the place of key and returns the first node at or after it.
func (l *skiplist) find(key []byte, at *splice) *node {
	before := l.head
	var next *node
	for level := int(l.height.Load()) - 1; level >= 0; level-- {
		for {
			n := before.next[level].Load()
			// A node that was the boundary one level up need not be compared again.
			if n == nil || n == next || bytes.Compare(n.key, key) >= 0 {
				next = n
				break
			}
			before = n
		}
		if at != nil {
			at[level] = before
		}
	}
	return next
}

// last gives the last node before key, or nil; a nil key is after all others.
func (l *skiplist) last(key []byte) *node {
	before := l.head
	for level := int(l.height.Load()) - 1; level >= 0; level-- {
		for n := before.next[level].Load(); n != nil; n = before.next[level].Load() {
			if key != nil && bytes.Compare(n.key, key) >= 0 {
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

// insert adds an entry at the place that find gave; the writer must not have
// inserted anything in between. It keeps key and value, which must come from alloc.
func (l *skiplist) insert(at *splice, key, value []byte) {
	height := 1
	for bits := rand.Uint32(); height < maxHeight && bits&branchMask == 0; bits >>= 2 {
		height++
	}
	for level := int(l.height.Load()); level < height; level++ {
		at[level] = l.head
	}
	n := l.newNode(height)
	n.key, n.value = key, value
	for level := range height {
		n.next[level].Store(at[level].next[level].Load())
	}
	if height > int(l.height.Load()) {
		l.height.Store(int32(height))
	}
	// From the bottom up: a reader that meets the node finds it whole.
	for level := range height {
		at[level].next[level].Store(n)
	}
	l.size.Add(int64(len(key) + len(value) + nodeOverhead))
}

func (l *skiplist) newNode(height int) *node {
	if len(l.nodes) == 0 {
		l.nodes = make([]node, nodeChunk)
	}
	if len(l.links) < height {
		l.links = make([]atomic.Pointer[node], linkChunk)
	}
	n := &l.nodes[0]
	l.nodes = l.nodes[1:]
	n.next = l.links[:height:height]
	l.links = l.links[height:]
	return n
}

// alloc returns an empty slice with room for n bytes in the list's memory.
func (l *skiplist) alloc(n int) []byte {
	if n > dataChunk/4 {
		return make([]byte, 0, n)
	}
	if len(l.data) < n {
		l.data = make([]byte, dataChunk)
	}
	b := l.data[:0:n]
	l.data = l.data[n:]
	return b
}
