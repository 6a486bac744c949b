package faults

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/test/workload"
)

// outside is where clients are, for paths.
const outside = "outside"

// Network is every proxy, and the paths that they obey.
type Network struct {
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu    sync.Mutex // Guards the fields below.
	paths map[[2]string]*path
	links []*link
}

func newNetwork() *Network {
	ctx, cancel := context.WithCancel(context.Background())
	return &Network{ctx: ctx, cancel: cancel, paths: map[[2]string]*path{}}
}

// Close ends all proxies.
func (n *Network) Close() {
	n.cancel()
	n.mu.Lock()
	links := n.links
	n.mu.Unlock()
	for _, l := range links {
		_ = l.listener.Close()
		l.reset(0)
	}
	n.tasks.Wait()
}

// path is what happens to the bytes on the way from one place to another.
type path struct {
	mu      sync.Mutex // Guards the fields below.
	state   condition
	changed chan struct{} // Closed and replaced at each change.
}

// condition of a path; the zero value is a good one.
type condition struct {
	blocked   bool          // Nothing passes; it comes later, as TCP would send it again.
	delay     time.Duration // Everything comes so much later,
	jitter    time.Duration // and up to this much more.
	bandwidth int           // Bytes a second; 0: no limit.
}

func (n *Network) path(from, to string) *path {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.paths[[2]string{from, to}]
	if p == nil {
		p = &path{changed: make(chan struct{})}
		n.paths[[2]string{from, to}] = p
	}
	return p
}

// Set changes the path from one place to another.
func (n *Network) Set(from, to string, change func(*condition)) {
	p := n.path(from, to)
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.state)
	close(p.changed)
	p.changed = make(chan struct{})
}

// Heal makes all paths good.
func (n *Network) Heal() {
	n.mu.Lock()
	var all [][2]string
	for ends := range n.paths {
		all = append(all, ends)
	}
	n.mu.Unlock()
	for _, ends := range all {
		n.Set(ends[0], ends[1], func(c *condition) { *c = condition{} })
	}
}

func (p *path) now() condition {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// open waits until the path is not blocked.
func (p *path) open(ctx context.Context) error {
	for {
		p.mu.Lock()
		blocked, changed := p.state.blocked, p.changed
		p.mu.Unlock()
		if !blocked {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// link is one proxy: what one place dials to reach another.
type link struct {
	network  *Network
	from, to string
	target   string
	listener net.Listener
	forward  *path
	backward *path

	mu    sync.Mutex // Guards conns.
	conns map[*proxied]struct{}
}

// Link starts a proxy from one place to another on listener.
func (n *Network) Link(from, to, target string, listener net.Listener) {
	l := &link{
		network: n, from: from, to: to, target: target, listener: listener,
		forward: n.path(from, to), backward: n.path(to, from),
		conns: map[*proxied]struct{}{},
	}
	n.mu.Lock()
	n.links = append(n.links, l)
	n.mu.Unlock()
	n.tasks.Go(l.accept)
}

// Reset breaks the connections between two places: each after at most so many
// more bytes, in the middle of whatever is sent.
func (n *Network) Reset(a, b string, within int64) {
	n.mu.Lock()
	links := n.links
	n.mu.Unlock()
	for _, l := range links {
		if l.from == a && l.to == b || l.from == b && l.to == a {
			l.reset(within)
		}
	}
}

func (l *link) reset(within int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if within == 0 {
			c.kill()
		} else {
			c.budget.Store(1 + rand.Int64N(within))
		}
	}
}

func (l *link) accept() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.network.tasks.Go(func() { l.serve(conn) })
	}
}

// serve is one connection. The path must be open to dial, as for a SYN.
func (l *link) serve(dialed net.Conn) {
	ctx, cancel := context.WithCancel(l.network.ctx)
	c := &proxied{near: dialed.(*net.TCPConn), cancel: cancel}
	c.budget.Store(unlimited)
	l.mu.Lock()
	l.conns[c] = struct{}{}
	l.mu.Unlock()
	defer func() {
		c.kill()
		l.mu.Lock()
		delete(l.conns, c)
		l.mu.Unlock()
	}()
	if l.forward.open(ctx) != nil || l.backward.open(ctx) != nil {
		return
	}
	far, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", l.target)
	if err != nil {
		return
	}
	if !c.join(far.(*net.TCPConn)) {
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { c.pump(ctx, far, dialed, l.forward) })
	pumps.Go(func() { c.pump(ctx, dialed, far, l.backward) })
	pumps.Wait()
	// Both directions came to their end: nothing is left to be lost by a reset.
}

// unlimited is a budget that is never used up.
const unlimited = int64(1) << 62

// proxied is one connection through a proxy.
type proxied struct {
	cancel context.CancelFunc
	budget atomic.Int64 // Bytes until the connection is reset.

	mu     sync.Mutex // Guards the fields below.
	near   *net.TCPConn
	far    *net.TCPConn
	killed bool
}

func (c *proxied) join(far *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.far = far
	if c.killed {
		_ = far.Close()
	}
	return !c.killed
}

// kill resets both halves: the peers see an error, not an end.
func (c *proxied) kill() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	for _, conn := range []*net.TCPConn{c.near, c.far} {
		if conn != nil {
			_ = conn.SetLinger(0)
			_ = conn.Close()
		}
	}
}

// chunk is some bytes on their way.
type chunk struct {
	bytes []byte
	due   time.Time
}

// pump carries bytes along a path until either end closes.
func (c *proxied) pump(ctx context.Context, to, from net.Conn, p *path) {
	const inFlight = 64 // Then the sender has to wait.
	chunks := make(chan chunk, inFlight)
	var writer sync.WaitGroup
	writer.Go(func() {
		for next := range chunks {
			if c.deliver(ctx, to, next, p) != nil {
				c.kill()
				return
			}
		}
		_ = to.(*net.TCPConn).CloseWrite()
	})
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.kill()
			}
			break
		}
		state := p.now()
		due := time.Now().Add(state.delay)
		if state.jitter > 0 {
			due = due.Add(rand.N(state.jitter))
		}
		select {
		case chunks <- chunk{append([]byte(nil), buffer[:n]...), due}:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(chunks)
	writer.Wait()
}

// deliver writes a chunk when it is due and the path is open.
func (c *proxied) deliver(ctx context.Context, to net.Conn, next chunk, p *path) error {
	if err := workload.Pause(ctx, time.Until(next.due)); err != nil {
		return err
	}
	if err := p.open(ctx); err != nil {
		return err
	}
	if bandwidth := p.now().bandwidth; bandwidth > 0 {
		if err := workload.Pause(ctx, time.Duration(len(next.bytes))*time.Second/time.Duration(bandwidth)); err != nil {
			return err
		}
	}
	if left := c.budget.Add(-int64(len(next.bytes))); left <= 0 {
		whole := int64(len(next.bytes)) + left // May be negative: the other direction used it up.
		_, _ = to.Write(next.bytes[:max(0, whole)])
		return net.ErrClosed
	}
	_, err := to.Write(next.bytes)
	return err
}
