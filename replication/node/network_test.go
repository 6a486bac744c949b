package node

import (
	"context"
	"net"
	"os"
	"sync"
	"time"
)

// network puts faults between pods. Connections are wrapped where they are
// dialled, which covers both directions.
type network struct {
	mu      sync.Mutex
	addrs   map[string]string // pod -> host:port
	cuts    map[[2]string]bool
	delay   time.Duration
	changed chan struct{}
	// budget, when not nil, says after how many received bytes a connection breaks.
	budget func(from, to string) int
}

func newNetwork() *network {
	return &network{addrs: map[string]string{}, cuts: map[[2]string]bool{}, changed: make(chan struct{})}
}

func (w *network) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// isolate cuts a pod from all others: what is sent neither arrives nor fails.
func (w *network) isolate(pod string) {
	w.change(func() {
		for other := range w.addrs {
			w.cuts[[2]string{pod, other}], w.cuts[[2]string{other, pod}] = other != pod, other != pod
		}
	})
}

func (w *network) heal() { w.change(func() { clear(w.cuts) }) }

func (w *network) resolve(pod string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.addrs[pod]; ok {
		return a, nil
	}
	return "", &net.DNSError{Err: "no such host", Name: pod, IsNotFound: true}
}

func (w *network) podAt(addr string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for pod, a := range w.addrs {
		if a == addr {
			return pod
		}
	}
	return addr
}

func (w *network) dialer(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		c := &faultyConn{net: w, from: from, to: w.podAt(addr), closed: make(chan struct{}), budget: -1}
		if err := c.gate(ctx.Done()); err != nil {
			return nil, err
		}
		inner, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		c.Conn = inner
		w.mu.Lock()
		if w.budget != nil {
			c.budget = w.budget(c.from, c.to)
		}
		w.mu.Unlock()
		return c, nil
	}
}

type faultyConn struct {
	net.Conn
	net      *network
	from, to string
	closed   chan struct{}
	once     sync.Once

	mu       sync.Mutex
	deadline time.Time
	budget   int
}

// gate waits while the two pods are cut off from each other.
func (c *faultyConn) gate(done <-chan struct{}) error {
	for {
		c.net.mu.Lock()
		cut, changed := c.net.cuts[[2]string{c.from, c.to}], c.net.changed
		c.net.mu.Unlock()
		if !cut {
			return nil
		}
		c.mu.Lock()
		deadline := c.deadline
		c.mu.Unlock()
		var expired <-chan time.Time
		if !deadline.IsZero() {
			t := time.NewTimer(time.Until(deadline))
			defer t.Stop()
			expired = t.C
		}
		select {
		case <-changed:
		case <-c.closed:
			return net.ErrClosed
		case <-expired:
			return os.ErrDeadlineExceeded
		case <-done:
			return context.DeadlineExceeded
		}
	}
}

func (c *faultyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if gated := c.gate(nil); gated != nil {
		return 0, gated
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.budget >= 0 {
		if n > c.budget {
			c.Conn.Close()
			n = c.budget
		}
		c.budget -= n
		if n == 0 {
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (c *faultyConn) Write(p []byte) (int, error) {
	if err := c.gate(nil); err != nil {
		return 0, err
	}
	c.net.mu.Lock()
	delay := c.net.delay
	c.net.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	return c.Conn.Write(p)
}

func (c *faultyConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *faultyConn) setDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
}

func (c *faultyConn) SetDeadline(t time.Time) error { c.setDeadline(t); return c.Conn.SetDeadline(t) }
func (c *faultyConn) SetReadDeadline(t time.Time) error {
	c.setDeadline(t)
	return c.Conn.SetReadDeadline(t)
}
func (c *faultyConn) SetWriteDeadline(t time.Time) error {
	c.setDeadline(t)
	return c.Conn.SetWriteDeadline(t)
}
