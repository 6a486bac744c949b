package server

import (
	"bytes"
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

// later is a part of an answer that is not in memory: gRPC looks at a buffer when the
// client has given it leave to send from it, and it is read then, and dropped once it is
// written. What cannot be read by then, since its revision was compacted or its caller
// has lost the right, is replaced by bytes that no client takes for a message.
type later struct {
	mem.Buffer // For what only gRPC's own buffers have, which is not used on the way out.
	size       int
	again      func() ([]byte, error)
	holds      atomic.Int32
	read       []byte
	freed      func() // May be nil.
}

// laterBytes is about what one takes in memory, its closure and its key included.
const laterBytes = 512

// notAMessage is what no message begins with, nor a field: a field without a number, of
// a kind that there is not.
const notAMessage = 0x07

func newLater(p Part) *later {
	l := &later{Buffer: mem.SliceBuffer(nil), size: p.Size, again: p.Later()}
	l.holds.Store(1)
	return l
}

// Len implements mem.Buffer.
func (l *later) Len() int { return l.size }

// ReadOnlyData implements mem.Buffer. Only the goroutine that writes calls it.
func (l *later) ReadOnlyData() []byte {
	if l.read == nil {
		read, err := l.again()
		if err != nil || len(read) != l.size {
			read = bytes.Repeat([]byte{notAMessage}, l.size)
		}
		l.read = read
	}
	return l.read
}

// Ref implements mem.Buffer.
func (l *later) Ref() { l.holds.Add(1) }

// Free implements mem.Buffer.
func (l *later) Free() {
	if l.holds.Add(-1) > 0 {
		return
	}
	l.read = nil
	if l.freed != nil {
		l.freed()
	}
}

// Slice implements mem.Buffer.
func (l *later) Slice(start, end int) mem.Buffer { return mem.SliceBuffer(l.ReadOnlyData()[start:end]) }
