package simulate

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is one side of a connection. A Write never waits: a goroutine that waits
// for a lock whose holder waits for virtual time would stop that time for ever.
type conn struct {
	number        uint64 // Of its dial.
	host          *Host
	peer          *conn
	local, remote net.Addr
	in            *flow // What this side reads.
	out           *flow // What it writes.
	kept          *recording
}

// maxInFlight bounds what was written and not read: over it the connection
// breaks, as one does whose reader is gone.
const maxInFlight = 256 << 20

// unackedLimit is when a kernel gives up a connection whose other side does not
// acknowledge: replication asks for 10 s (TCP_USER_TIMEOUT).
const unackedLimit = 10 * time.Second

// errUnacked is that the kernel gives up: the whole connection breaks. (gRPC
// spins when a connection cannot be written to and its reader sees nothing.)
var errUnacked = opError("read", syscall.ETIMEDOUT)

// flow is one direction of a connection.
type flow struct {
	network  *Network
	from, to *Host

	mu       sync.Mutex // Guards the fields below.
	segments []segment
	bytes    int
	last     time.Time // When the last segment arrives.
	ended    error     // What comes after it, if the writer said so.
	// What either side gets at once, whatever is under way.
	readErr, writeErr error
	mute              bool // What is written gets lost: nobody is there.
	deadline          time.Time
	wake              chan struct{} // Has a token after a change; one reader.
}

type segment struct {
	arrives time.Time
	data    []byte
}

// connect makes both sides. The network's lock is held.
func connect(from, to *Host, number uint64, port string) (near, far *conn) {
	there := &flow{network: from.network, from: from, to: to, wake: make(chan struct{}, 1)}
	back := &flow{network: from.network, from: to, to: from, wake: make(chan struct{}, 1)}
	local, remote := &net.TCPAddr{IP: net.ParseIP(from.ip), Port: int(20000 + number%40000)}, endpoint(to.ip, port)
	near = &conn{number: number, host: from, local: local, remote: remote, in: back, out: there}
	far = &conn{number: number, host: to, local: remote, remote: local, in: there, out: back}
	near.kept = from.network.record(from, to, number, port)
	near.peer, far.peer = far, near
	from.conns[near], to.conns[far] = struct{}{}, struct{}{}
	return near, far
}

func (f *flow) kick() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *flow) set(change func()) {
	f.mu.Lock()
	change()
	f.mu.Unlock()
	f.kick()
}

// way is what a flow goes over, at a moment.
type way struct {
	latency time.Duration
	cut     bool
	changed <-chan struct{}
	// hung: one side's process does nothing; its kernel acknowledges what comes.
	hung bool
}

func (f *flow) state() way {
	f.network.mu.Lock()
	defer f.network.mu.Unlock()
	l := f.network.link(f.from.name, f.to.name)
	return way{l.latency, l.cut, l.changed, f.from.hung != nil || f.to.hung != nil}
}

// write hands data to the network.
func (f *flow) write(data []byte) (int, error) {
	latency := f.state().latency
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.writeErr != nil:
		return 0, f.writeErr
	case f.bytes+len(data) > maxInFlight:
		return 0, errUnacked
	case f.mute:
		return len(data), nil
	}
	f.segments = append(f.segments, segment{f.arrival(latency), append([]byte(nil), data...)})
	f.bytes += len(data)
	f.kick()
	return len(data), nil
}

// arrival is when something arrives that is sent now: in order, whatever the
// latency was before.
func (f *flow) arrival(latency time.Duration) time.Time {
	if at := time.Now().Add(latency); at.After(f.last) {
		f.last = at
	}
	return f.last
}

// read takes what has arrived, or says for how long there is nothing.
func (f *flow) read(p []byte, w way) (n int, wait time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.readErr != nil {
		return 0, 0, f.readErr
	}
	wait = time.Hour
	if !f.deadline.IsZero() {
		if wait = f.deadline.Sub(now); wait <= 0 {
			return 0, 0, os.ErrDeadlineExceeded
		}
	}
	next, something := f.next()
	due := next.Sub(now)
	switch {
	case !something, w.hung:
	case w.cut && due <= -unackedLimit:
		return 0, 0, errUnacked
	case w.cut:
		wait = min(wait, due+unackedLimit)
	case due > 0:
		wait = min(wait, due)
	case len(f.segments) == 0:
		return 0, 0, f.ended
	default:
		return f.take(p, now), 0, nil
	}
	return 0, wait, nil
}

// next is when the next segment, or the end, arrives.
func (f *flow) next() (at time.Time, something bool) {
	if len(f.segments) > 0 {
		return f.segments[0].arrives, true
	}
	return f.last, f.ended != nil
}

func (f *flow) take(p []byte, now time.Time) (n int) {
	for n < len(p) && len(f.segments) > 0 && !f.segments[0].arrives.After(now) {
		s := &f.segments[0]
		k := copy(p[n:], s.data)
		n, s.data = n+k, s.data[k:]
		if len(s.data) == 0 {
			f.segments = f.segments[1:]
		}
	}
	f.bytes -= n
	return n
}

func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		state := c.in.state()
		n, wait, err := c.in.read(p, state)
		if errors.Is(err, errUnacked) {
			c.breakBoth(syscall.ETIMEDOUT)
		}
		if n > 0 || err != nil {
			return n, err
		}
		t := time.NewTimer(wait)
		select {
		case <-c.in.wake:
		case <-state.changed:
		case <-t.C:
		}
		t.Stop()
	}
}

func (c *conn) Write(p []byte) (int, error) {
	c.kept.write(p)
	n, err := c.out.write(p)
	if errors.Is(err, errUnacked) {
		c.breakBoth(syscall.ETIMEDOUT)
	}
	return n, err
}

// Close tells the other side, after what was written.
func (c *conn) Close() error {
	c.leave(io.EOF)
	return nil
}

// leave ends this side; the other one gets word after what was written.
func (c *conn) leave(word error) {
	latency := c.out.state().latency
	c.in.set(func() {
		c.in.mute = true
		if c.in.readErr == nil {
			c.in.readErr = net.ErrClosed
		}
	})
	c.out.set(func() {
		if c.out.ended == nil {
			c.out.ended = word
			c.out.arrival(latency)
		}
		if c.out.writeErr == nil {
			c.out.writeErr = net.ErrClosed
		}
	})
	c.forget()
}

func (c *conn) forget() {
	n := c.host.network
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(c.host.conns, c)
}

// breakBoth ends both sides at once.
func (c *conn) breakBoth(errno syscall.Errno) {
	for _, f := range []*flow{c.in, c.out} {
		f.set(func() { f.readErr, f.writeErr = opError("read", errno), opError("write", errno) })
	}
	c.forget()
	c.peer.forget()
}

// vanish ends this side without a word of its own: its kernel resets the
// connection, as soon as it can be heard; or the machine is gone with it, and the
// other side's kernel gives up some time later.
func (c *conn) vanish(silent bool) {
	if state := c.out.state(); state.cut || state.hung || silent {
		c.out.set(func() { c.out.segments, c.out.bytes = nil, 0 })
	}
	if !silent {
		c.leave(opError("read", syscall.ECONNRESET))
		return
	}
	c.in.set(func() { c.in.mute, c.in.readErr = true, net.ErrClosed })
	c.out.set(func() { c.out.writeErr = net.ErrClosed })
	c.forget()
	time.AfterFunc(unackedLimit, func() { c.peer.breakBoth(syscall.ETIMEDOUT) })
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.set(func() { c.in.deadline = t })
	return nil
}

// SetWriteDeadline changes nothing: a write never waits.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
