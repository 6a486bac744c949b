package inbound

import (
	"context"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/batondb/baton/internal/quota"
)

// Options of a Port. All are needed.
type Options struct {
	// Connections are open; Calls have begun, and their client has not said yet that
	// its message was all, or are between Enter and Leave; Bytes are of messages whose
	// rest is still to come.
	Connections, Calls, Bytes *quota.Quota
	// Patience is how long a message may take to arrive, from the beginning of its
	// call, or in a stream from its first byte.
	Patience time.Duration
	// MaxMessageBytes is the longest message that gRPC takes.
	MaxMessageBytes int
	// Fail makes a refusal into what the client gets.
	Fail func(error) error
	// Admit is asked about each call before anything but its headers is read, by the
	// goroutine that reads its connection: it must not block. Its error, for the client,
	// ends the call, and counts as a frame of no use.
	Admit func(ctx context.Context, method string) (context.Context, error)
}

// Port bounds what comes to one gRPC port. Its methods may be called by any goroutine.
type Port struct {
	options Options
	methods map[string]Method // Set before the first call.
	ticks   atomic.Int64      // Patience has patienceTicks of them.
	late    atomic.Int64      // Messages that did not arrive in time.
	slowed  atomic.Int64      // Times that a connection was not read for a while.
	open    context.Context   // Ends with Close.
	close   context.CancelFunc

	mu       sync.Mutex // guards the fields below
	conns    map[*conn]struct{}
	visitors map[string]*visitor // By address, with connections and a while longer.
}

// patienceTicks is how exactly patience is measured.
const patienceTicks = 16

// New returns a port without connections.
func New(o Options) *Port {
	p := &Port{options: o, methods: map[string]Method{}, conns: map[*conn]struct{}{}, visitors: map[string]*visitor{}}
	p.ticks.Store(1)
	p.open, p.close = context.WithCancel(context.Background())
	return p
}

// Close lets nobody wait any more who is read more slowly, so that the gRPC server can
// stop.
func (p *Port) Close() { p.close() }

// ServerOptions are for the gRPC server of the port, whose connections get their
// security from inner.
func (p *Port) ServerOptions(inner credentials.TransportCredentials) []grpc.ServerOption {
	return []grpc.ServerOption{grpc.Creds(&bounded{inner, p}), grpc.InTapHandle(p.tap), grpc.ReadBufferSize(0)}
}

// Method is how a client sends its messages.
type Method int

// The kinds of methods. The client of a Unary one, and of one with ManyAnswers, sends one message at once; that of a Streaming one may be silent between them.
const (
	Unary Method = iota + 1
	ManyAnswers
	Streaming
)

// Has tells of a method. Call it before the first connection.
func (p *Port) Has(method string, kind Method) { p.methods[method] = kind }

// Late is how many messages did not arrive in time.
func (p *Port) Late() int64 { return p.late.Load() }

// Slowed is how often a connection was not read for a while.
func (p *Port) Slowed() int64 { return p.slowed.Load() }

func (p *Port) isLate(began int64) bool { return began > 0 && p.ticks.Load()-began > patienceTicks }

// Run ends messages that do not arrive, until ctx ends.
func (p *Port) Run(ctx context.Context) {
	tick := time.NewTicker(p.options.Patience / patienceTicks)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.ticks.Add(1)
		p.mu.Lock()
		for c := range p.conns {
			c.poke()
		}
		maps.DeleteFunc(p.visitors, func(_ string, one *visitor) bool {
			one.giveBack(p.options.Calls)
			return one.rested()
		})
		p.mu.Unlock()
	}
}

// tap is called by gRPC for each call, by the goroutine that reads its connection,
// before it reads anything else.
func (p *Port) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	address := addressOf(ctx)
	if address == nil {
		return ctx, nil
	}
	address.conn.opening.unmet = false
	method := p.methods[info.FullMethodName]
	if method == 0 {
		address.spend(callCost)
	}
	ctx, err := p.options.Admit(ctx, info.FullMethodName)
	if err != nil {
		address.spend(frameCost)
		address.refused = true
		return ctx, err
	}
	call, err := address.conn.begin(method)
	if err != nil {
		address.spend(callCost)
		return ctx, p.options.Fail(err)
	}
	return context.WithValue(ctx, callKey{}, call), nil
}

// addressOf is where a call comes from; nil: not through a Port.
func addressOf(ctx context.Context) *Address {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	address, _ := from.Addr.(*Address)
	return address
}

// AfterClose runs f once the connection of a call is closed, unless stop is called
// before.
func AfterClose(ctx context.Context, f func()) (stop func() bool) {
	if address := addressOf(ctx); address != nil {
		return context.AfterFunc(address.open, f)
	}
	return func() bool { return true }
}

// Host is whom to count for who comes from an address; see [quota.ByAddress].
func Host(address net.Addr) string {
	if a, ok := address.(*Address); ok {
		return a.Host()
	}
	return quota.ByAddress(address)
}

// bounded are credentials whose connections the port follows.
type bounded struct {
	credentials.TransportCredentials
	port *Port
}

// ServerHandshake implements credentials.TransportCredentials.
func (b *bounded) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p, who := b.port, Host(raw.RemoteAddr())
	if err := p.options.Connections.Take(who, 1); err != nil {
		return nil, nil, err
	}
	from := p.arrive(raw.RemoteAddr())
	from.spend(connectionCost)
	from.restFor(longestGreeting)
	secured, info, err := b.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		p.leave(from)
		return nil, nil, err
	}
	c := newConn(secured, p, from)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
	return c, info, nil
}

// Clone implements credentials.TransportCredentials.
func (b *bounded) Clone() credentials.TransportCredentials {
	return &bounded{b.TransportCredentials.Clone(), b.port}
}
