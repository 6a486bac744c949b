package peer

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/volume"
)

// onLoopback opens the port of a pod.
func onLoopback(t *testing.T, pod string, resolve func(string) (string, error)) *Port {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &replication.Options{Name: pod, Listener: l, Logger: slog.New(slog.DiscardHandler), Resolver: resolve, Dir: t.TempDir(), Receive: func(io.Reader) (replication.Position, error) { panic(pod) }}
	if err := o.Complete(); err != nil {
		t.Fatal(err)
	}
	id := volume.Identity{MemberID: pod + "/" + uuid.NewString(), ClusterID: "c"}
	p := NewPort(o, func() volume.Identity { return id }, func(string, handshake.Reason) {})
	t.Cleanup(func() { p.Close(); p.Wait() })
	return p
}

// Strangers that connect, say half a greeting and stay are no more in the way of a pod than
// nobody, whether or not it comes from their address.
func TestHalfOpenGreetings(t *testing.T) {
	called := onLoopback(t, "kv-0", calledByNobody)
	at := called.opts.Listener.Addr().String()
	p := onLoopback(t, "kv-1", func(string) (string, error) { return at, nil })
	answers := called.Listen(handshake.Calls)
	go func() {
		for conn, err := answers.Accept(); err == nil; conn, err = answers.Accept() {
			conn.Close()
		}
	}()
	var strangers []net.Conn
	for i := range 4 * maxGreetings {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i%8))}} // Of eight addresses.
		conn, err := dialer.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("BATON")); err != nil && !errors.Is(err, io.EOF) {
			t.Logf("stranger %d: %v", i, err)
		}
		strangers = append(strangers, conn)
		if i%64 != 63 {
			continue
		}
		conn, err = p.Dial(t.Context(), handshake.Calls, "kv-0", "")
		if err != nil {
			t.Fatalf("beside %d strangers: %v", i+1, err)
		}
		conn.Close()
	}
	if open := called.greetings.count(); open > maxGreetings {
		t.Errorf("%d greetings are open", open)
	}
	// One that makes room is told so at once.
	strangers[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := strangers[0].Read(make([]byte, 1)); errors.Is(err, net.ErrClosed) || err == nil {
		t.Errorf("the first stranger: %v", err)
	}
}

func (g *greetings) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.open)
}

func calledByNobody(string) (string, error) { return "", errors.New("nobody is called") }

type named string

func (n named) Network() string { return "tcp" }
func (n named) String() string  { return string(n) }

type addressed struct {
	net.Conn
	from   named
	closed bool
}

func (a *addressed) RemoteAddr() net.Addr { return a.from }
func (a *addressed) Close() error         { a.closed = true; return nil }

func TestSharesOfGreetings(t *testing.T) {
	g := &greetings{}
	enter := func(from string) *addressed {
		c := &addressed{from: named(from)}
		g.enter(c)
		return c
	}
	pod := enter("10.0.0.1:1")
	first := enter("10.0.0.2:1")
	for i := range 10 * maxGreetings {
		enter(fmt.Sprintf("10.0.0.2:%d", 2+i))
	}
	if pod.closed || !first.closed || len(g.open) != maxAddressGreetings+1 {
		t.Errorf("one address has %d, the pod of another was closed: %t", len(g.open)-1, pod.closed)
	}
	for i := range 10 * maxGreetings {
		enter(fmt.Sprintf("[2001:db8::%x]:1", i))
	}
	if pod.closed || len(g.open) != 2*maxAddressGreetings+1 {
		t.Errorf("one network has %d, the pod of another was closed: %t", len(g.open)-1-maxAddressGreetings, pod.closed)
	}
	for i := range maxGreetings {
		enter(fmt.Sprintf("10.1.%d.%d:1", i/200, i%200))
	}
	if len(g.open) != maxGreetings {
		t.Errorf("%d are open", len(g.open))
	}
	last := enter("10.0.0.3:1")
	g.leave(last)
	if last.closed || len(g.open) != maxGreetings-1 {
		t.Error("the newest was closed")
	}
}

// A pod that connects again and again has so many connections, the newest.
func TestConnectionsOfOnePod(t *testing.T) {
	called := onLoopback(t, "kv-0", calledByNobody)
	at := called.opts.Listener.Addr().String()
	resolve := func(string) (string, error) { return at, nil }
	p, other := onLoopback(t, "kv-1", resolve), onLoopback(t, "kv-2", resolve)
	answers := called.Listen(handshake.Calls)
	var accepted []net.Conn
	open := func(p *Port) {
		t.Helper()
		conn, err := p.Dial(t.Context(), handshake.Calls, "kv-0", "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		end, err := answers.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { end.Close() })
		accepted = append(accepted, end)
	}
	open(other)
	for range maxConns + 1 {
		open(p)
	}
	ended := func(c net.Conn) bool {
		c.SetReadDeadline(time.Unix(1, 0))
		_, err := c.Read(make([]byte, 1))
		return errors.Is(err, net.ErrClosed)
	}
	if ended(accepted[0]) || !ended(accepted[1]) || ended(accepted[2]) || ended(accepted[maxConns+1]) {
		t.Error("another one than the oldest of the pod with too many was closed")
	}
}
