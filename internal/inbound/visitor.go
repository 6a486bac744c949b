package inbound

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/internal/quota"
	"github.com/batondb/baton/internal/sleep"
)

const (
	// idleRate is how much may come a second from one address that is of no use. It is
	// counted in frames, such as resets, each of which costs about 10 microseconds of a
	// processor.
	idleRate = 2000
	// idleBurst may come at once: a client with as many calls may cancel all of them.
	idleBurst = 8000

	// frameCost is that of a frame; of what costs more, clients need less.
	frameCost = 1
	// settingsCost: clients send one SETTINGS frame at first, and a dozen later.
	settingsCost = 4
	// callCost is that of a call which is malformed or refused.
	callCost = 4
	// connectionCost is that of a new connection: 1000 may come at once, and 250 a second.
	// With TLS one takes half a millisecond.
	connectionCost = 8
	// newTime is for how long a connection is new.
	newTime = 10 * time.Second
	// longestGreeting is how long the handshake of a new connection waits: less than
	// gRPC lets it take.
	longestGreeting = 5 * time.Second
)

// costTime is what a cost of 1 takes.
const costTime = time.Second / idleRate

// visitor is an address with its connections.
type visitor struct {
	who     string
	calls   atomic.Int64 // That there are.
	allowed atomic.Int64 // Taken from the quota for them, by mu.

	mu    sync.Mutex // guards the fields below
	paid  time.Time  // When all that was spent will be paid for.
	left  time.Time  // When what connections have spent that are closed will be.
	conns int
}

func newVisitor(who string) *visitor { return &visitor{who: who} }

// slots is how many calls are taken from the quota at a time, since each costs.
const slots = 64

// begin counts a call. It fails when the address may have no more.
func (v *visitor) begin(quota *quota.Quota) error {
	if v.calls.Add(1) <= v.allowed.Load() {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.calls.Load() <= v.allowed.Load() {
		return nil
	}
	if err := quota.Take(v.who, slots); err != nil {
		v.calls.Add(-1)
		return err
	}
	v.allowed.Add(slots)
	return nil
}

func (v *visitor) end() { v.calls.Add(-1) }

// giveBack gives back what is not needed. Some stay for the next call, unless there is
// no connection left.
func (v *visitor) giveBack(quota *quota.Quota) {
	v.mu.Lock()
	defer v.mu.Unlock()
	keep := v.calls.Load()
	if v.conns > 0 {
		keep += slots
	}
	if extra := v.allowed.Load() - keep; extra > 0 {
		v.allowed.Add(-extra)
		quota.Give(v.who, extra)
	}
}

// spend returns until when whoever has spent so much is not to be read; the zero time:
// its address had so much left. Otherwise the connections take turns: one does not wait
// for what another owes, unless that is closed and it is new: it may be the same client.
func (v *visitor) spend(cost int, by *Address) time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	now, takes := time.Now(), time.Duration(cost)*costTime
	v.paid = later(v.paid, now).Add(takes)
	until := v.paid.Add(-idleBurst * costTime)
	if !until.After(now) {
		return time.Time{}
	}
	by.owed = later(by.owed, now)
	if now.Sub(by.arrived) < newTime {
		by.owed = later(by.owed, v.left)
	}
	by.owed = by.owed.Add(takes * time.Duration(max(v.conns, 1)))
	if by.left { // Calls of it have ended since.
		v.left = later(v.left, by.owed)
	}
	if by.owed.Before(until) {
		return by.owed
	}
	return until
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// rested says that nothing needs to be remembered.
func (v *visitor) rested() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.conns == 0 && v.allowed.Load() == 0 && v.paid.Before(time.Now())
}

// Address is a client's, as gRPC knows it.
type Address struct {
	net.Addr
	port    *Port
	conn    *conn // nil during its handshake.
	visitor *visitor
	// owed is when the connection's own share of what its address owes will be paid for;
	// and left that it is closed; guarded by visitor.mu.
	owed    time.Time
	left    bool
	arrived time.Time
	// until is when the connection is read again, in Unix nanoseconds. Only those wait
	// that have spent something themselves: others behind the address go on.
	until atomic.Int64
	kept  atomic.Pointer[any] // By Remember.
	// refused: a call was refused by its headers since the last read. For the goroutine
	// that reads.
	refused bool
	open    context.Context // Ends with the connection, or the port.
	end     context.CancelFunc
}

// arrive is called with a new connection's address, and leave with that of one that has
// ended.
func (p *Port) arrive(from net.Addr) *Address {
	who := Host(from)
	open, end := context.WithCancel(p.open)
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.visitors[who]
	if one == nil {
		one = newVisitor(who)
		p.visitors[who] = one
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.conns++
	return &Address{Addr: from, port: p, visitor: one, arrived: time.Now(), open: open, end: end}
}

func (p *Port) leave(a *Address) {
	p.options.Connections.Give(a.Host(), 1)
	a.visitor.mu.Lock()
	a.visitor.conns--
	a.visitor.left, a.left = later(a.visitor.left, a.owed), true
	a.visitor.mu.Unlock()
	a.visitor.giveBack(p.options.Calls)
	a.end()
}

// Host is the address without the port.
func (a *Address) Host() string { return a.visitor.who }

// spend notes that a connection cost something that is of no use.
func (a *Address) spend(cost int) {
	if until := a.visitor.spend(cost, a); !until.IsZero() {
		a.until.Store(until.UnixNano())
	}
}

// rest waits for as long as the connection is not to be read: TCP slows its client.
func (a *Address) rest() { a.restFor(time.Hour) }

func (a *Address) restFor(most time.Duration) {
	until := a.until.Load()
	if until == 0 {
		return
	}
	a.until.CompareAndSwap(until, 0)
	pause := min(time.Until(time.Unix(0, until)), most)
	if pause <= 0 {
		return
	}
	a.port.slowed.Add(1)
	sleep.For(a.open, pause)
}

// Useless notes that a call was malformed, refused, or not permitted.
func Useless(ctx context.Context) {
	if address := addressOf(ctx); address != nil {
		address.spend(callCost)
	}
}

// Remember keeps something with the connection of a call, in place of what was kept before.
func Remember(ctx context.Context, what any) {
	if address := addressOf(ctx); address != nil {
		address.kept.Store(&what)
	}
}

// Remembered is what is kept with the connection of a call; nil: nothing.
func Remembered(ctx context.Context) any {
	if address := addressOf(ctx); address != nil {
		if kept := address.kept.Load(); kept != nil {
			return *kept
		}
	}
	return nil
}
