package inbound

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/batondb/baton/internal/sleep"
)

const (
	headerBytes = 9
	// maxFrameBytes is what gRPC allows; it ends the connection at a larger frame.
	maxFrameBytes = 16 << 10
	// bufferBytes is as large as gRPC's own buffer, and holds a whole frame.
	bufferBytes = 32 << 10
	// smallFragment of a message that is larger: clients fill their frames, and each
	// takes some hundred bytes until the message is whole, however little is in it.
	smallFragment = 1 << 10
)

// errStalled ends a connection whose client stopped within a frame, errDivided one
// that hid the length of a message too large in several frames, and errGone one whose
// client reads nothing any more.
var (
	errStalled = errors.New("a frame did not arrive in time")
	errDivided = errors.New("a message is more than what may be under way")
	errGone    = errors.New("answers cannot be written any more")
)

// conn hands frames on to gRPC's framer, each as soon as it is known what to do with it.
type conn struct {
	net.Conn
	port    *Port
	address *Address

	// Only the goroutine that reads uses these.
	in      *bufio.Reader
	header  [headerBytes]byte
	pending []byte // Not handed on yet: the header, or frames that the client did not send.
	left    int    // Of the frame's payload.
	awaits  int64  // The tick since when the rest of a frame is awaited; 0: none is.
	late    bool   // To look for messages that are late.
	opening opening

	streams streams
	earned  atomic.Int64 // Pings and window updates that answers have paid for.
	broken  atomic.Bool  // Nothing can be written to it any more.
}

// opening is what the last HEADERS frame began.
type opening struct {
	stream uint32
	ends   bool // With it the client has said all.
	unmet  bool // gRPC has not called tap for it.
}

func newConn(secured net.Conn, p *Port, from *Address) *conn {
	c := &conn{port: p, address: from, in: bufio.NewReaderSize(secured, bufferBytes), left: len(http2.ClientPreface)}
	c.Conn = &outgoing{Conn: secured, begun: c.answer, failed: c.fail}
	from.conn = c
	c.streams.open, c.streams.calls = map[uint32]stream{}, map[uint32]*Call{}
	c.earned.Store(firstEarned)
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
		c.port.options.Bytes.Give(c.address.Host(), bytes)
		for _, one := range calls {
			one.Leave()
		}
		c.port.leave(c.address)
	}
	return c.Conn.Close()
}

// fail is called when something could not be written. gRPC would read on to the end: the
// calls that a client left behind as it went away would take what it may have until then.
func (c *conn) fail() {
	c.broken.Store(true)
	c.address.end()
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
	if !errors.Is(err, os.ErrDeadlineExceeded) || c.opening.stream == 0 {
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

// gatherTime is how long what comes after a refusal is gathered before it is read: most of
// what it takes to refuse one call alone, about 60 microseconds, are system calls and
// goroutines that wake up, and several together take a tenth of that each.
const gatherTime = 20 * time.Millisecond

// gather waits after a refusal, once what is here is read.
func (c *conn) gather() {
	if c.address.refused && c.in.Buffered() < headerBytes {
		c.address.refused = false
		sleep.For(c.address.open, gatherTime)
	}
}

// next takes the next frame, at the end of the one before.
func (c *conn) next() error {
	c.gather()
	c.address.rest()
	if c.broken.Load() {
		return errGone
	}
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
	length, id := lengthOf(header), streamOf(header)
	kind, flags := http2.FrameType(header[3]), http2.Flags(header[4])
	ends := flags.Has(http2.FlagDataEndStream)
	if c.opening.unmet && kind != http2.FrameContinuation {
		c.opening.unmet = false
		c.address.spend(callCost) // Its headers were malformed, or too many.
	}
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
		c.opening = opening{id, ends, true}
		fallthrough
	case kind == http2.FrameData:
		if ends {
			c.forget(id)
		}
	case kind == http2.FrameRSTStream:
		c.forget(id)
		c.streams.end(id)
	}
	if cost := c.useless(kind, flags, length); cost > 0 {
		c.address.spend(cost)
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
// call. Window updates and pings are paid for by answers, after nearly each of which
// gRPC's clients measure with a ping how much is on its way.
func (c *conn) useless(kind http2.FrameType, flags http2.Flags, length int) int {
	switch kind {
	case http2.FrameData:
		if length == 0 && !flags.Has(http2.FlagDataEndStream) {
			return frameCost
		}
		return 0
	case http2.FrameHeaders:
		return 0
	case http2.FrameWindowUpdate, http2.FramePing:
		if c.pay() {
			return 0
		}
	case http2.FrameSettings:
		return settingsCost
	}
	return frameCost
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

// begin counts the call whose headers were read last, and follows what is to come.
func (c *conn) begin(of Method) (*Call, error) {
	if err := c.address.visitor.begin(c.port.options.Calls); err != nil {
		return nil, err
	}
	one := newCall(c.address.visitor)
	if c.opening.ends || c.isWhole() {
		c.streams.begin(c.opening.stream, one)
		return one, nil
	}
	s := stream{unary: of == Unary}
	if of != Streaming {
		s.began = c.port.ticks.Load()
	}
	c.streams.follow(c.opening.stream, one, s)
	return one, nil
}

// isWhole says that all that the client sends in the call is here, as it mostly is: then
// there is nothing to follow.
func (c *conn) isWhole() bool {
	n := c.in.Buffered()
	if n < headerBytes {
		return false
	}
	header, _ := c.in.Peek(headerBytes) // It is there.
	return http2.FrameType(header[3]) == http2.FrameData && http2.Flags(header[4]).Has(http2.FlagDataEndStream) &&
		streamOf(header) == c.opening.stream && n >= headerBytes+lengthOf(header)
}

// lengthOf is how long the payload is of a frame with this header.
func lengthOf(header []byte) int { return int(header[0])<<16 | int(header[1])<<8 | int(header[2]) }

// streamOf is the stream that a frame with this header belongs to.
func streamOf(header []byte) uint32 { return binary.BigEndian.Uint32(header[5:]) & (1<<31 - 1) }

func (c *conn) giveBytes(taken int64) {
	if taken > 0 {
		c.port.options.Bytes.Give(c.address.Host(), taken)
	}
}

// forget follows a stream no longer.
func (c *conn) forget(id uint32) {
	if s, ok := c.streams.remove(id); ok {
		c.giveBytes(s.taken)
	}
}

// data follows the messages of a stream through a frame, which it may change: if the
// rest of a message is more than the caller may have under way, it is refused.
func (c *conn) data(id uint32, payload []byte) error {
	small := len(payload) < smallFragment
	return c.streams.change(id, func(s *stream) (keep bool, err error) {
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
			if err := c.port.options.Bytes.Take(c.address.Host(), s.left); err != nil {
				if len(prefix)-len(payload) != prefixBytes {
					return false, errDivided
				}
				refuseMessage(prefix, payload, s.unary)
				return false, nil
			}
			s.taken = s.left
		}
		if small && (s.left > 0 || s.have > 0) {
			c.address.spend(frameCost)
		}
		return true, nil
	})
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
