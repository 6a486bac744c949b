package peer

import (
	"context"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
)

// pipes is a network in memory, for virtual time.
type pipes struct{ listeners map[string]*pipeListener }

type pipeListener struct {
	address pipeAddress
	conns   chan net.Conn
	closed  chan struct{}
}

type pipeAddress string

func (pipeAddress) Network() string  { return "pipe" }
func (a pipeAddress) String() string { return string(a) }

func (p *pipes) listen() (net.Listener, error) {
	l := &pipeListener{pipeAddress(fmt.Sprintf("10.0.0.%d:7401", len(p.listeners))), make(chan net.Conn), make(chan struct{})}
	p.listeners[l.address.String()] = l
	return l, nil
}

func (p *pipes) dial(ctx context.Context, address string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.listeners[address].conns <- far:
		return near, nil
	case <-p.listeners[address].closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return l.address }

// A connection does not outlast the certificates that it began with, though no file changes
// on the side that looks. Calls have moved by then to one that began with renewed ones: none
// of them fails.
func TestConnectionsEndWithTheirCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPods(t)
		p.network = &pipes{listeners: map[string]*pipeListener{}}
		called := p.files("kv-0", p.ca) // For an hour.
		p.life = 10 * time.Hour
		port, calling := p.open("kv-0", called), p.open("kv-1", p.files("kv-1", p.ca))
		server := StartServer(port, nil, func(grpc.ServiceRegistrar) {})
		defer server.Stop()
		raft := port.Listen(handshake.Append)
		calls := NewCalls(calling)
		defer calls.Close()
		began := time.Now()

		conn, err := calling.DialMember(replication.MemberID(port.identity().MemberID), handshake.Append, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := raft.Next(); err != nil {
			t.Fatal(err)
		}
		closed := make(chan time.Duration, 1)
		go func() {
			_, _ = conn.Read(make([]byte, 1))
			closed <- time.Since(began)
		}()
		call := func() {
			t.Helper()
			to, err := calls.Conn("kv-0")
			if err == nil {
				err = to.Invoke(t.Context(), "/nothing/There", &struct{}{}, &struct{}{}, grpc.ForceCodec(nothing{}))
			}
			if status.Code(err) != codes.Unimplemented {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
		}
		keepCalling := func(until, pause time.Duration) { // So that the connection does not end for want of calls.
			for time.Since(began) < until {
				call()
				time.Sleep(pause)
			}
		}
		keepCalling(50*time.Minute, 5*time.Second)
		moved := calls.Moved()
		p.renew("kv-0", called)
		keepCalling(59*time.Minute, 5*time.Second)
		keepCalling(61*time.Minute, 100*time.Millisecond)
		select {
		case after := <-closed:
			if after < time.Hour || after > time.Hour+2*grace {
				t.Errorf("the connection for entries was closed after %s", after)
			}
		default:
			t.Error("the connection for entries goes on, with a certificate that has ended")
		}
		select {
		case <-moved:
		default:
			t.Error("calls have not moved")
		}
		calling.mu.Lock()
		defer calling.mu.Unlock()
		for c := range calling.conns {
			if c.kind == handshake.Calls && c.until.Before(time.Now()) {
				t.Errorf("a connection for calls is kept whose certificates ended at %s", c.until)
			}
		}
		if n := p.refused("kv-1 out untrusted") + p.refused("kv-0 in untrusted"); n != 0 {
			t.Errorf("%d connections were refused", n)
		}
	})
}

// renew writes a pod's next certificate, and has it read.
func (p *pods) renew(pod string, files *pki.Files) {
	p.t.Helper()
	p.certify(p.dirs[pod], p.ca, pod, p.ca)
	if err := files.Reload(); err != nil {
		p.t.Fatal(err)
	}
}

// nothing encodes everything as nothing.
type nothing struct{}

func (nothing) Marshal(any) ([]byte, error) { return nil, nil }
func (nothing) Unmarshal([]byte, any) error { return nil }
func (nothing) Name() string                { return "nothing" }
