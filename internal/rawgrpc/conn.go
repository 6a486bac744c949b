package rawgrpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
)

// Conn is one connection. It never gives the server leave to send more than the
// protocol's 64 KiB, for all streams and for each, so that answers stay unread. One
// goroutine may write; Wait may be called by any.
type Conn struct {
	net.Conn
	Framer *http2.Framer // To write with; see also Begin and Send.
	next   uint32

	writing sync.Mutex

	mu      sync.Mutex // guards the fields below
	ends    map[uint32]End
	lost    error         // Why the connection ended.
	changed chan struct{} // closed at the next change
}

// End is how the server ended a call.
type End struct {
	Code    codes.Code // Of the call; Unavailable if the connection ended.
	Message string
	Reset   http2.ErrCode // With Code Unknown, if the stream was reset before it had a status.
}

// New begins a connection over conn, which it owns from then on.
func New(conn net.Conn) (*Conn, error) {
	c := &Conn{Conn: conn, Framer: http2.NewFramer(conn, conn), next: 1, ends: map[uint32]End{}, changed: make(chan struct{})}
	c.Framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return nil, err
	}
	if err := c.Framer.WriteSettings(); err != nil {
		return nil, err
	}
	go c.receive()
	return c, nil
}

func (c *Conn) receive() {
	for {
		frame, err := c.Framer.ReadFrame()
		if err != nil {
			c.note(func() { c.lost = err })
			return
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				code, _ := strconv.Atoi(field(f, "grpc-status"))
				c.end(f.StreamID, End{Code: codes.Code(code), Message: field(f, "grpc-message")})
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				c.writing.Lock()
				_ = c.Framer.WritePing(true, f.Data) // If it fails, so will the next read.
				c.writing.Unlock()
			}
		case *http2.RSTStreamFrame:
			c.end(f.StreamID, End{Code: codes.Unknown, Reset: f.ErrCode})
		}
	}
}

func field(f *http2.MetaHeadersFrame, name string) string {
	for _, field := range f.Fields {
		if field.Name == name {
			return field.Value
		}
	}
	return ""
}

// end keeps the first end of a stream: a reset may follow a status.
func (c *Conn) end(stream uint32, end End) {
	c.note(func() {
		if _, ended := c.ends[stream]; !ended {
			c.ends[stream] = end
		}
	})
}

func (c *Conn) note(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// Wait returns how a call ended.
func (c *Conn) Wait(ctx context.Context, stream uint32) (End, error) {
	return c.wait(ctx, func() (End, bool) {
		end, ended := c.ends[stream]
		return end, ended
	})
}

// WaitAny returns how some call ended.
func (c *Conn) WaitAny(ctx context.Context) (End, error) {
	return c.wait(ctx, func() (End, bool) {
		for _, end := range c.ends {
			return end, true
		}
		return End{}, false
	})
}

// wait calls find with c.mu held.
func (c *Conn) wait(ctx context.Context, find func() (End, bool)) (End, error) {
	for {
		c.mu.Lock()
		end, ended := find()
		if !ended && c.lost != nil {
			end, ended = End{Code: codes.Unavailable, Message: c.lost.Error()}, true
		}
		changed := c.changed
		c.mu.Unlock()
		if ended {
			return end, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return End{}, fmt.Errorf("no call ended: %w", ctx.Err())
		}
	}
}

// Ended says how many calls have ended, and why the connection has; nil if it has not.
func (c *Conn) Ended() (calls int, lost error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ends), c.lost
}

// Begin sends the headers of a call.
func (c *Conn) Begin(method string, more ...hpack.HeaderField) (stream uint32, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	stream = c.next
	c.next += 2
	return stream, c.Framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: Headers(method, more...), EndHeaders: true,
	})
}

// Headers are a call's, encoded so that the server's table does not change.
func Headers(method string, more ...hpack.HeaderField) []byte {
	var block []byte
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: method}, {Name: ":authority", Value: "pod"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		block = append(block, Field(f.Name, f.Value)...)
	}
	return block
}

// Field is a header, encoded so that the server's table does not change.
func Field(name, value string) []byte {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: true}) // A buffer takes everything.
	return block.Bytes()
}

// Message is a message as it goes over the wire.
func Message(payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(payload))), payload...)
}

// Send sends some bytes of a call, in frames, and whether they are the last.
func (c *Conn) Send(stream uint32, payload []byte, last bool) error {
	const most = 16 << 10
	c.writing.Lock()
	defer c.writing.Unlock()
	for len(payload) > most {
		if err := c.Framer.WriteData(stream, false, payload[:most]); err != nil {
			return err
		}
		payload = payload[most:]
	}
	return c.Framer.WriteData(stream, last, payload)
}

// Call sends a whole call.
func (c *Conn) Call(method string, request []byte, more ...hpack.HeaderField) (stream uint32, err error) {
	if stream, err = c.Begin(method, more...); err != nil {
		return 0, err
	}
	return stream, c.Send(stream, Message(request), true)
}

// Many returns what write writes, to be sent again and again.
func Many(write func(*http2.Framer)) []byte {
	var frames bytes.Buffer
	write(http2.NewFramer(&frames, nil))
	return frames.Bytes()
}
