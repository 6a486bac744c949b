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

// worthMeasuring is what is sent between two acknowledgements: from less a client learns
// nothing, since it changes its window only when two thirds of that, at least 64 KiB,
// came between its PING and what comes back.
const worthMeasuring = 16 << 10

// packets are buffers for what gRPC writes at one time, which is one or two of its own
// buffers, and an acknowledgement.
var packets = sync.Pool{New: func() any { return &packet{} }}

type packet [2 * bufferBytes]byte

// outgoing is what gRPC writes to a connection: with its buffer full, or with no more to
// write, so it begins and ends anywhere in a frame.
type outgoing struct {
	net.Conn
	begun  func(header []byte) // Of each frame.
	failed func()              // After an error.
	owes   bool                // An acknowledgement, between two frames.
	sent   int                 // Bytes since the last one.

	// Where what was written ends: so much of a header, or before so much of a payload.
	header [headerBytes]byte
	have   int
	left   int
}

// Write implements net.Conn, for gRPC's one goroutine that writes. An acknowledgement of
// a measurement that would go alone waits for what is written next: alone, it costs a
// client of a watch as much as the event before it, at both ends. And it waits until
// there is something to measure: until then the client sends no other PING, which costs
// as much again. While there is much to send something always comes next, and the
// measurement is good.
func (o *outgoing) Write(p []byte) (int, error) {
	begins := o.betweenFrames()
	if begins && !o.owes && bytes.Equal(p, measured) {
		o.owes = true
		return len(p), nil
	}
	o.follow(p)
	o.sent += len(p)
	ends := o.betweenFrames()
	if !o.owes || o.sent < worthMeasuring || !begins && !ends {
		return o.write(p)
	}
	o.owes, o.sent = false, 0
	buffer := packets.Get().(*packet)
	defer packets.Put(buffer)
	all := buffer[:0]
	if ends { // Behind it, the client does not measure the next answer again.
		all = append(append(all, p...), measured...)
	} else {
		all = append(append(all, measured...), p...)
	}
	if _, err := o.write(all); err != nil {
		return 0, err // The connection ends, however much was written.
	}
	return len(p), nil
}

func (o *outgoing) write(p []byte) (int, error) {
	n, err := o.Conn.Write(p)
	if err != nil {
		o.failed()
	}
	return n, err
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
