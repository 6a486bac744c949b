package inbound

import (
	"encoding/binary"
	"math"
	"sync"
)

const (
	// prefixBytes come before each message: whether it is compressed, and its length.
	prefixBytes = 5
	// refusedLength is longer than any message may be.
	refusedLength = math.MaxUint32
)

// stream is how far the current message of a stream has come.
type stream struct {
	unary  bool
	began  int64 // The tick when it was awaited; 0: nothing is awaited.
	have   int   // Of its prefix.
	prefix [prefixBytes]byte
	left   int64 // Of it, after the prefix.
	taken  int64 // From the quota.
}

// begin takes the prefix of a message, and all of the message if it is there. It is
// ready when the prefix is whole and something of the message, left, is to come.
func (s *stream) begin(payload []byte, now int64) (rest []byte, ready bool) {
	if s.began == 0 {
		s.began = now
	}
	n := copy(s.prefix[s.have:], payload)
	s.have, payload = s.have+n, payload[n:]
	if s.have < prefixBytes {
		return payload, false
	}
	s.have = 0
	length := int64(binary.BigEndian.Uint32(s.prefix[1:]))
	if length <= int64(len(payload)) {
		s.began = 0
		return payload[length:], false
	}
	s.left = length
	return payload, true
}

// more takes what comes of a message that has begun.
func (s *stream) more(payload []byte) (rest []byte) {
	n := min(s.left, int64(len(payload)))
	if s.left -= n; s.left == 0 {
		s.began = 0
	}
	return payload[n:]
}

// streams are those of a connection: open are the ones that their client has not ended,
// as far as they are followed, and calls all whose end was not written.
type streams struct {
	followed int // As many as open has; for the goroutine that reads.

	mu     sync.Mutex // guards the fields below
	open   map[uint32]stream
	calls  map[uint32]*Call
	closed bool
}

func (s *streams) has(id uint32) bool {
	if s.followed == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.open[id]
	return ok
}

// change changes a stream, if it is open. It is removed unless it is kept.
func (s *streams) change(id uint32, change func(*stream) (keep bool, err error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.open[id]
	if !ok {
		return nil
	}
	kept, err := change(&one)
	if kept {
		s.open[id] = one
	} else {
		delete(s.open, id)
		s.followed--
	}
	return err
}

// begin adds a call, unless the connection is closed.
func (s *streams) begin(id uint32, one *Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		one.Leave()
		return
	}
	s.calls[id] = one
}

// follow is begin, and follows what the client is yet to send.
func (s *streams) follow(id uint32, one *Call, of stream) {
	s.begin(id, one)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.open[id] = of
		s.followed++
	}
}

// end ends a call: nothing more of it will be written.
func (s *streams) end(id uint32) {
	s.mu.Lock()
	one := s.calls[id]
	delete(s.calls, id)
	s.mu.Unlock()
	if one != nil {
		one.Leave()
	}
}

func (s *streams) remove(id uint32) (stream, bool) {
	if s.followed == 0 {
		return stream{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.open[id]
	if ok {
		delete(s.open, id)
		s.followed--
	}
	return one, ok
}

func (s *streams) removeIf(is func(stream) bool) map[uint32]stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	var removed map[uint32]stream
	for id, one := range s.open {
		if is(one) {
			if removed == nil {
				removed = map[uint32]stream{}
			}
			removed[id] = one
			delete(s.open, id)
			s.followed--
		}
	}
	return removed
}

// any says whether one of them is late.
func (s *streams) any(late func(began int64) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.open {
		if late(one.began) {
			return true
		}
	}
	return false
}

// close returns how much of messages is to be given back, the calls that have not
// ended, and whether it is the first time.
func (s *streams) close() (bytes int64, calls map[uint32]*Call, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.open {
		bytes += one.taken
	}
	calls, first = s.calls, !s.closed
	s.open, s.calls, s.closed = nil, nil, true
	return bytes, calls, first
}
