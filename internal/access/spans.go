package access

import (
	"bytes"
	"slices"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// span is the keys from start up to, and without, end; nil is the end of all keys.
type span struct{ start, end []byte }

// fromKey says whether a range_end means the end of all keys.
func fromKey(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// newSpan reads a range as requests and permissions have it.
func newSpan(key, end []byte) span {
	switch {
	case len(end) == 0:
		return span{key, append(slices.Clip(key), 0)}
	case fromKey(end):
		return span{key, nil}
	}
	return span{key, end}
}

func permitted(p *kvv1.Permission) span { return newSpan(p.GetKey(), p.GetRangeEnd()) }

// compareEnds orders ends; nil is the last.
func compareEnds(a, b []byte) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return bytes.Compare(a, b)
}

// spans are in order, and no two of them touch.
type spans []span

// merged puts spans in any order together.
func (all spans) merged() spans {
	slices.SortFunc(all, func(a, b span) int { return bytes.Compare(a.start, b.start) })
	var merged spans
	for _, s := range all {
		last := len(merged) - 1
		if last < 0 || merged[last].end != nil && bytes.Compare(merged[last].end, s.start) < 0 {
			merged = append(merged, s)
		} else if compareEnds(merged[last].end, s.end) < 0 {
			merged[last].end = s.end
		}
	}
	return merged
}

// cover says whether every key of a range is in one of the spans. A range without
// keys, which ends before it begins, is covered where its key is.
func (all spans) cover(key, end []byte) bool {
	after, found := slices.BinarySearchFunc(all, key, func(s span, key []byte) int { return bytes.Compare(s.start, key) })
	if found {
		after++
	}
	if after == 0 {
		return false
	}
	s := all[after-1]
	if s.end != nil && bytes.Compare(key, s.end) >= 0 {
		return false
	}
	switch {
	case len(end) == 0:
		return true
	case fromKey(end):
		return s.end == nil
	}
	return compareEnds(end, s.end) <= 0
}
