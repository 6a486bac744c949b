package store

import (
	"bytes"
	"slices"
)

// spanIndex finds the watchers whose span contains a key, in time that grows
// with the logarithm of their number and with the number found: the watchers
// sorted by the start of their span, each subtree of the implicit binary tree
// with the largest end in it (the augmented tree of Cormen et al., chapter 17).
type spanIndex struct {
	watchers []*Watcher
	ends     []spanEnd // Of the subtree whose root is at the same place.
}

// spanEnd is an exclusive end; a nil key is behind all others.
type spanEnd []byte

func (w *Watcher) end() spanEnd {
	if !w.span.single {
		return w.span.end
	}
	return append(bytes.Clone(w.span.start), 0)
}

func (e spanEnd) after(key []byte) bool { return e == nil || bytes.Compare(e, key) > 0 }

func newSpanIndex(watchers map[*Watcher]struct{}) *spanIndex {
	x := &spanIndex{}
	for w := range watchers {
		x.watchers = append(x.watchers, w)
	}
	slices.SortFunc(x.watchers, func(a, b *Watcher) int { return bytes.Compare(a.span.start, b.span.start) })
	x.ends = make([]spanEnd, len(x.watchers))
	x.build(0, len(x.watchers))
	return x
}

func (x *spanIndex) build(lo, hi int) (largest spanEnd, any bool) {
	if lo == hi {
		return nil, false
	}
	mid := (lo + hi) / 2
	largest = x.watchers[mid].end()
	for _, half := range [2][2]int{{lo, mid}, {mid + 1, hi}} {
		if end, any := x.build(half[0], half[1]); any && largest != nil && (end == nil || bytes.Compare(end, largest) > 0) {
			largest = end
		}
	}
	x.ends[mid] = largest
	return largest, true
}

// each calls found for every watcher whose span contains a key.
func (x *spanIndex) each(key []byte, found func(*Watcher)) {
	x.walk(0, len(x.watchers), key, found)
}

func (x *spanIndex) walk(lo, hi int, key []byte, found func(*Watcher)) {
	for lo < hi {
		mid := (lo + hi) / 2
		if !x.ends[mid].after(key) {
			return // Everything in this subtree ends before the key.
		}
		x.walk(lo, mid, key, found)
		w := x.watchers[mid]
		if bytes.Compare(w.span.start, key) > 0 {
			return // And everything to the right begins after it.
		}
		if w.span.contains(key) {
			found(w)
		}
		lo = mid + 1
	}
}
