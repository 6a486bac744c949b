package inbound

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/net/http2"
)

const (
	headerBytes = 9
	// maxFrameBytes is what gRPC allows; it ends the connection at a larger frame.
	maxFrameBytes = 16 << 10
	// bufferBytes is as large as gRPC's own buffer, and holds a whole frame.
	bufferBytes = 32 << 10
)

// errStalled ends a connection whose client stopped within a frame, and errDivided one
// that hid the length of a message too large in several frames.
var (
	errStalled = errors.New("a frame did not arrive in time")
	errDivided = errors.New("a message is more than what may be under way")
)

// conn hands frames on to gRPC's framer, each as soon as it is known what to do with it.
type conn struct {
	net.Conn
	port    *Port
	who     string
	address *Address

	// Only the goroutine that reads uses these.
	in      *bufio.Reader
	header  [headerBytes]byte
	pending []byte // Not handed on yet: the header, or frames that the client did not send.
	left    int    // Of the frame's payload.
	awaits  int64  // The tick since when the rest of a frame is awaited; 0: none is.
	late    bool   // To look for messages that are late.
	opening uint32 // The stream of the last HEADERS frame.
	ends    bool   // With it the client has said all.

	streams streams
}

func newConn(secured net.Conn, p *Port, who string, from *visitor) *conn {
	c := &conn{Conn: &outgoing{Conn: secured}, port: p, who: who, in: bufio.NewReaderSize(secured, bufferBytes), left: len(http2.ClientPreface)}
	open, end := context.WithCancel(context.Background())
	c.address = &Address{Addr: secured.RemoteAddr(), conn: c, visitor: from, open: open, end: end}
	c.streams.open = map[uint32]stream{}
	return c
}

// RemoteAddr implements net.Conn: by it tap finds the connection.
func (c *conn) RemoteAddr() net.Addr { return c.address }

// Close implements net.Conn, and gives everything back.
func (c *conn) Close() error {
	c.port.mu.Lock()
	delete(c.port.conns, c)
	c.port.mu.Unlock()
	if bytes, calls, first := c.streams.close(); first {
		c.port.options.Connections.Give(c.who, 1)
		c.port.options.Bytes.Give(c.who, bytes)
		c.address.visitor.end(calls)
		c.address.visitor.leave()
		c.address.visitor.giveBack(c.port.options.Calls)
		c.address.end()
	}
	return c.Conn.Close()
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	for {
		switch {
		case len(c.pending) > 0:
			n := copy(p, c.pending)
			c.pending = c.pending[n:]
			return n, nil
		case c.left > 0:
			n, err := c.in.Read(p[:min(len(p), c.left)])
			if c.left -= n; c.left == 0 {
				c.awaits = 0
			}
			if n > 0 || err == nil {
				return n, nil
			}
			if err := c.interrupted(err); err != nil {
				return 0, err
			}
		default:
			if err := c.next(); err != nil {
				return 0, err
			}
		}
	}
}

// interrupted returns nil if a read only ended to look for messages that are late.
// Before the first call there are none, and a deadline is gRPC's.
func (c *conn) interrupted(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) || c.opening == 0 {
		return err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if c.port.isLate(c.awaits) {
		return errStalled
	}
	c.late = true
	return nil
}

// poke interrupts the reading goroutine if a message is late.
func (c *conn) poke() {
	if c.streams.any(c.port.isLate) {
		_ = c.SetReadDeadline(time.Now()) // An error: it is closed already.
	}
}

// next takes the next frame, at the end of the one before.
func (c *conn) next() error {
	c.rest()
	if c.late {
		c.late = false
		if c.pending = c.endLate(); len(c.pending) > 0 {
			return nil
		}
	}
	header, err := c.peek(headerBytes)
	if err != nil || header == nil {
		return err
	}
	copy(c.header[:], header) // A second peek moves what the first has shown.
	header = c.header[:]
	length := int(header[0])<<16 | int(header[1])<<8 | int(header[2])
	kind, flags := http2.FrameType(header[3]), http2.Flags(header[4])
	id := binary.BigEndian.Uint32(header[5:]) & (1<<31 - 1)
	ends := flags.Has(http2.FlagDataEndStream)
	switch {
	case kind == http2.FrameData && !ends && length <= maxFrameBytes && c.streams.has(id):
		if c.awaits == 0 {
			c.awaits = c.port.ticks.Load()
		}
		frame, err := c.peek(headerBytes + length)
		if err != nil || frame == nil {
			return err
		}
		if err := c.data(id, body(frame[headerBytes:], flags)); err != nil {
			return err
		}
	case kind == http2.FrameHeaders:
		c.opening, c.ends = id, ends
		fallthrough
	case kind == http2.FrameData:
		if ends {
			c.forget(id)
		}
	case kind == http2.FrameRSTStream:
		c.forget(id)
	}
	if cost := useless(kind, flags, length); cost > 0 {
		c.address.visitor.spend(cost)
	}
	c.left, c.awaits = length, 0
	if length > 0 {
		c.awaits = c.port.ticks.Load()
	}
	_, err = c.in.Discard(headerBytes)
	c.pending = c.header[:]
	return err
}

// useless is what a frame costs that clients need seldom: of the others, each moves a
// call. Window updates and pings are between: gRPC's clients measure with a ping after
// nearly each answer how much is on its way, and gRPC itself ends a connection of pings
// alone.
func useless(kind http2.FrameType, flags http2.Flags, length int) float64 {
	switch kind {
	case http2.FrameData:
		if length == 0 && !flags.Has(http2.FlagDataEndStream) {
			return 1
		}
		return 0
	case http2.FrameHeaders, http2.FrameContinuation:
		return 0
	case http2.FrameWindowUpdate, http2.FramePing:
		return 1.0 / 256
	}
	return 1
}

// peek returns the next bytes; nil without an error when it was interrupted.
func (c *conn) peek(n int) ([]byte, error) {
	bytes, err := c.in.Peek(n)
	if err == nil {
		return bytes, nil
	}
	if len(bytes) > 0 && errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, c.interrupted(err)
}

// body is a DATA frame's payload without its padding.
func body(payload []byte, flags http2.Flags) []byte {
	if !flags.Has(http2.FlagDataPadded) {
		return payload
	}
	if len(payload) == 0 || int(payload[0]) > len(payload)-1 {
		return nil // gRPC ends the connection.
	}
	return payload[1 : len(payload)-int(payload[0])]
}

// open follows the stream whose headers were read last.
func (c *conn) open(of Method) error {
	if c.ends || c.isWhole() {
		return nil
	}
	s := stream{unary: of == Unary}
	if of != Streaming {
		s.began = c.port.ticks.Load()
	}
	if err := c.address.visitor.begin(c.port.options.Calls); err != nil {
		return err
	}
	if !c.streams.add(c.opening, s) {
		c.address.visitor.end(1)
	}
	return nil
}

// isWhole says that all that the client sends in the call is here, as it mostly is: then
// there is nothing to follow.
func (c *conn) isWhole() bool {
	n := c.in.Buffered()
	if n < headerBytes {
		return false
	}
	header, _ := c.in.Peek(headerBytes) // It is there.
	length := int(header[0])<<16 | int(header[1])<<8 | int(header[2])
	return http2.FrameType(header[3]) == http2.FrameData && http2.Flags(header[4]).Has(http2.FlagDataEndStream) &&
		binary.BigEndian.Uint32(header[5:])&(1<<31-1) == c.opening && n >= headerBytes+length
}

func (c *conn) giveBytes(taken int64) {
	if taken > 0 {
		c.port.options.Bytes.Give(c.who, taken)
	}
}

func (c *conn) forget(id uint32) {
	if s, ok := c.streams.remove(id); ok {
		c.giveBytes(s.taken)
		c.address.visitor.end(1)
	}
}

// data follows the messages of a stream through a frame, which it may change: if the
// rest of a message is more than the caller may have under way, it is refused.
func (c *conn) data(id uint32, payload []byte) error {
	kept, err := c.streams.change(id, func(s *stream) (keep bool, err error) {
		for len(payload) > 0 {
			if s.left > 0 {
				if payload = s.more(payload); s.left == 0 {
					c.giveBytes(s.taken)
					s.taken = 0
				}
				continue
			}
			prefix := payload
			var ready bool
			if payload, ready = s.begin(payload, c.port.ticks.Load()); !ready {
				continue
			}
			if s.left > int64(c.port.options.MaxMessageBytes) {
				return false, nil // gRPC refuses it.
			}
			if err := c.port.options.Bytes.Take(c.who, s.left); err != nil {
				if len(prefix)-len(payload) != prefixBytes {
					return false, errDivided
				}
				refuseMessage(prefix, payload, s.unary)
				return false, nil
			}
			s.taken = s.left
		}
		return true, nil
	})
	if !kept {
		c.address.visitor.end(1)
	}
	return err
}

// refuseMessage makes what there is of a message, after its prefix, a whole one that
// IsRefused knows. If there is too little, or gRPC itself would answer for the method, its
// length becomes one that gRPC refuses.
func refuseMessage(prefix, payload []byte, unary bool) {
	if !unary || len(payload) < len(refused) {
		binary.BigEndian.PutUint32(prefix[1:], refusedLength)
		return
	}
	prefix[0] = 0 // It is not compressed.
	binary.BigEndian.PutUint32(prefix[1:], uint32(len(payload)))
	copy(payload, refused)
}

// refused begins what is decoded in place of a refused message. No message begins with
// such a byte: it would be a field without a number, of a kind that there is not.
const refused = "\x07 more is unfinished than may be"

// IsRefused says that a message was refused on its way here.
func IsRefused(message []byte) bool {
	return len(message) >= len(refused) && message[0] == refused[0] && string(message[:len(refused)]) == refused
}

// endLate returns frames that end, for gRPC, the calls whose messages are late.
func (c *conn) endLate() (frames []byte) {
	for id, s := range c.streams.removeIf(func(s stream) bool { return c.port.isLate(s.began) }) {
		c.giveBytes(s.taken)
		c.address.visitor.end(1)
		c.port.late.Add(1)
		if s.have == 0 && s.left == 0 {
			// A prefix with a length that it refuses.
			frames = appendFrame(frames, id, 0, append([]byte{0}, binary.BigEndian.AppendUint32(nil, refusedLength)...))
		} else {
			frames = appendFrame(frames, id, http2.FlagDataEndStream, nil)
		}
	}
	return frames
}

func appendFrame(to []byte, id uint32, flags http2.Flags, payload []byte) []byte {
	to = append(to, 0, 0, byte(len(payload)), byte(http2.FrameData), byte(flags))
	to = binary.BigEndian.AppendUint32(to, id)
	return append(to, payload...)
}
