package peer

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
)

const (
	maxMessage = 8 << 20
	// maxHeader is many times what pods send, and maxCalls of one pod, on one
	// connection, may be under way; further ones wait there.
	maxHeader, maxCalls = 16 << 10, 4096
	// callWindow lets a stream of commands or of a clone fill the wire.
	callWindow = 4 << 20
	// silence is how long a connection may say nothing before it is asked
	// whether it still is one.
	silence = 10 * time.Second
	// unasked is how long a connection stays, or is tried again and again, that
	// nobody needs: members are asked all the time, and a pod that was looked for
	// once may never have been.
	unasked = 10 * time.Second
)

// Calls keeps a gRPC connection to each pod, made when it is first needed. When other
// certificates count, or those that were shown are about to end, the next calls go over
// new connections, which prove what counts now; those before them end when nobody uses
// them any more.
type Calls struct {
	port   *Port
	done   chan struct{} // closed by Close
	moving sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	conns map[string]*grpc.ClientConn
	old   []*grpc.ClientConn
	moved chan struct{} // closed when conns are new ones
}

// NewCalls makes calls through a port.
func NewCalls(p *Port) *Calls {
	c := &Calls{port: p, conns: map[string]*grpc.ClientConn{}, done: make(chan struct{}), moved: make(chan struct{})}
	if p.opts.Security != nil {
		c.moving.Go(c.move)
	}
	return c
}

// Moved is closed when calls should move from the present connections to new ones.
func (c *Calls) Moved() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moved
}

// move begins with new connections when other certificates count, or when those that a
// called pod has shown end soon. It returns after Close.
func (c *Calls) move() {
	tick := time.NewTicker(grace)
	defer tick.Stop()
	for {
		changed := c.port.opts.Security.Changed()
		c.reap()
		select {
		case <-changed:
			c.begin()
		case <-tick.C:
			if c.port.callsEnd() {
				c.begin()
			}
		case <-c.done:
			return
		}
	}
}

// begin has the next calls go over new connections.
func (c *Calls) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		c.old = append(c.old, conn)
	}
	c.conns = map[string]*grpc.ClientConn{}
	close(c.moved)
	c.moved = make(chan struct{})
}

// reap closes the old connections without a call.
func (c *Calls) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.old = slices.DeleteFunc(c.old, func(conn *grpc.ClientConn) bool {
		if conn.GetState() != connectivity.Idle {
			return false
		}
		conn.Close()
		return true
	})
}

// Conn is the connection to a pod, which is made when it is first used. With ErrClosed
// after Close.
func (c *Calls) Conn(pod string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.done:
		return nil, replication.ErrClosed
	default:
	}
	if conn := c.conns[pod]; conn != nil {
		return conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+pod,
		grpc.WithTransportCredentials(greeted{}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return c.port.Dial(ctx, handshake.Calls, pod, "")
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A pod that restarts is to be found at once; there are few pods.
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: handshakeTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: silence, Timeout: silence / 2}),
		grpc.WithInitialWindowSize(callWindow), grpc.WithInitialConnWindowSize(callWindow),
		grpc.WithIdleTimeout(unasked), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, err
	}
	c.conns[pod] = conn
	return conn, nil
}

// Renew ends all connections; the next call to each pod makes another, which greets as
// what this pod is now.
func (c *Calls) Renew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for pod, conn := range c.conns {
		conn.Close()
		delete(c.conns, pod)
	}
}

// Close ends all connections.
func (c *Calls) Close() {
	c.mu.Lock()
	select {
	case <-c.done:
	default:
		close(c.done)
	}
	all := append(slices.Collect(maps.Values(c.conns)), c.old...)
	c.mu.Unlock()
	for _, conn := range all {
		conn.Close()
	}
	c.moving.Wait()
}

// Server is the gRPC server of the peer port.
type Server struct {
	server   *grpc.Server
	listener *Listener
	ended    chan struct{}
}

// StartServer serves what register registers, behind guards, instead of an earlier one.
func StartServer(p *Port, guards []grpc.ServerOption, register func(grpc.ServiceRegistrar)) *Server {
	s := &Server{ended: make(chan struct{}), server: grpc.NewServer(append(guards,
		grpc.Creds(greeted{}),
		grpc.MaxHeaderListSize(maxHeader), grpc.MaxConcurrentStreams(maxCalls),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.InitialWindowSize(callWindow), grpc.InitialConnWindowSize(callWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: silence / 2, PermitWithoutStream: true}),
	)...)}
	register(s.server)
	s.listener = p.Listen(handshake.Calls)
	go func() {
		defer close(s.ended)
		s.server.Serve(s.listener) // ends at stop
	}()
	return s
}

// handOverTime is how long the calls under way have to end when another server takes
// over. Those that pods make of one that has no log yet take milliseconds.
const handOverTime = 250 * time.Millisecond

// Replaced ends the server after another has begun. The calls under way are answered,
// so that no pod takes this one for absent just then; later ones go to the other. A nil
// server does nothing.
func (s *Server) Replaced() {
	if s == nil {
		return
	}
	s.listener.Close()
	defer time.AfterFunc(handOverTime, s.server.Stop).Stop() // A client that is cut off says nothing for long.
	s.server.GracefulStop()
	<-s.ended
}

// Stop ends the calls under way. A nil server does nothing.
func (s *Server) Stop() {
	if s == nil {
		return
	}
	s.listener.Close()
	s.server.Stop()
	<-s.ended
}
