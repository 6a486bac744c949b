package store

import "bytes"

// span is a range of keys: from start to before end. A nil end means to the
// last key.
type span struct {
	start, end []byte
	single     bool
}

// newSpan reads the (key, range_end) pair of a request.
func newSpan(key, rangeEnd []byte) span {
	s := span{start: key}
	switch {
	case len(rangeEnd) == 0:
		s.single = true
	case len(rangeEnd) == 1 && rangeEnd[0] == 0:
		if len(key) == 1 && key[0] == 0 {
			s.start = nil // Every key.
		}
	default:
		s.end = rangeEnd
	}
	return s
}

func (s span) contains(key []byte) bool {
	return bytes.Compare(key, s.start) >= 0 && s.before(key)
}

// before says that key lies before the end of the span.
func (s span) before(key []byte) bool {
	if s.single {
		return bytes.Equal(key, s.start)
	}
	return s.end == nil || bytes.Compare(key, s.end) < 0
}
