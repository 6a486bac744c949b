package inbound

import (
	"bytes"
	"net"
	"sync"
)

// measured is the acknowledgement of the PING with which gRPC for Go measures a
// connection (bdp_estimator.go). A client sends one with the first bytes of each answer,
// unless one is under way, and nothing waits for what comes back.
var measured = []byte{0, 0, 8, 6, 1, 0, 0, 0, 0, 2, 4, 16, 16, 9, 14, 7, 7}

// packets are buffers for what gRPC writes at one time and an acknowledgement.
var packets = sync.Pool{New: func() any { return &packet{} }}

type packet [bufferBytes]byte

// outgoing is what gRPC writes to a connection: with its buffer full, or with no more to
// write, so it begins and ends anywhere in a frame.
type outgoing struct {
	net.Conn
	begun  func(header []byte) // Of each frame.
	failed func()              // After an error.
	owes   bool                // An acknowledgement, between two frames.

	// Where what was written ends: so much of a header, or before so much of a payload.
	header [headerBytes]byte
	have   int
	left   int
}

// Write implements net.Conn, for gRPC's one goroutine that writes. An acknowledgement of
// a measurement that would go alone waits for what is written next: alone, it costs a
// client of a watch as much as the event before it, at both ends. While there is much to
// send something always comes next, and the measurement is good.
func (o *outgoing) Write(p []byte) (int, error) {
	if !o.owes && o.betweenFrames() && bytes.Equal(p, measured) {
		o.owes = true
		return len(p), nil
	}
	o.follow(p)
	n, err := o.write(p)
	if err != nil {
		o.failed()
	}
	return n, err
}

// write writes, with the acknowledgement that is owed.
func (o *outgoing) write(p []byte) (int, error) {
	if !o.owes {
		return o.Conn.Write(p)
	}
	o.owes = false
	if len(p)+len(measured) > bufferBytes {
		if _, err := o.Conn.Write(measured); err != nil {
			return 0, err
		}
		return o.Conn.Write(p)
	}
	both := packets.Get().(*packet)
	defer packets.Put(both)
	if o.betweenFrames() {
		// Behind it, the client does not measure the next answer again.
		n, err := o.Conn.Write(append(append(both[:0], p...), measured...))
		return min(n, len(p)), err
	}
	n, err := o.Conn.Write(append(append(both[:0], measured...), p...))
	return max(0, n-len(measured)), err
}

func (o *outgoing) betweenFrames() bool { return o.have == 0 && o.left == 0 }

func (o *outgoing) follow(p []byte) {
	for len(p) > 0 {
		if o.left > 0 {
			n := min(o.left, len(p))
			p, o.left = p[n:], o.left-n
			continue
		}
		n := copy(o.header[o.have:], p)
		p, o.have = p[n:], o.have+n
		if o.have == headerBytes {
			o.have, o.left = 0, lengthOf(o.header[:])
			o.begun(o.header[:])
		}
	}
}
