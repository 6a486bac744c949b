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
}

// Port bounds what comes to one gRPC port. Its methods may be called by any goroutine.
type Port struct {
	options Options
	methods map[string]Method // Set before the first call.
	ticks   atomic.Int64      // Patience has patienceTicks of them.
	late    atomic.Int64      // Messages that did not arrive in time.

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
	return p
}

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
	method := p.methods[info.FullMethodName]
	if method == 0 {
		address.visitor.spend(1)
	}
	if err := address.conn.open(method); err != nil {
		address.visitor.spend(1)
		return ctx, p.options.Fail(err)
	}
	return ctx, nil
}

// Address is a client's, as gRPC knows it.
type Address struct {
	net.Addr
	conn    *conn
	visitor *visitor
	open    context.Context // Ends with the connection.
	end     context.CancelFunc
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

// Enter begins the work of a call, which ends with Leave. It fails when its caller may
// have no more under way.
func Enter(ctx context.Context) (*Address, error) {
	a := addressOf(ctx)
	if a == nil {
		return nil, nil
	}
	if err := a.visitor.begin(a.conn.port.options.Calls); err != nil {
		return nil, err
	}
	return a, nil
}

// Leave ends the work of a call; a is what Enter gave.
func (a *Address) Leave() {
	if a != nil {
		a.visitor.end(1)
	}
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
		return a.conn.who
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
	secured, info, err := b.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		p.options.Connections.Give(who, 1)
		return nil, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := newConn(secured, p, who, p.visitorOf(who))
	p.conns[c] = struct{}{}
	return c, info, nil
}

// Clone implements credentials.TransportCredentials.
func (b *bounded) Clone() credentials.TransportCredentials {
	return &bounded{b.TransportCredentials.Clone(), b.port}
}
