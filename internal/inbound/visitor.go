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
	// impatienceCost is that of a call whose caller is told each time when to come again:
	// one who waits is refused a few times a second, and the others get nothing by it.
	impatienceCost = 16
	// waryTime is how long a connection is wary after such a call: see Address.wary.
	waryTime = time.Second
	// connectionCost is that of a new connection: 1000 may come at once, and 250 a second.
	// With TLS one takes half a millisecond.
	connectionCost = 8
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
// its address had so much left.
func (v *visitor) spend(cost int) time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	if v.paid.Before(now) {
		v.paid = now
	}
	v.paid = v.paid.Add(time.Duration(cost) * costTime)
	if until := v.paid.Add(-idleBurst * costTime); until.After(now) {
		return until
	}
	return time.Time{}
}

// giveBackCost gives back what was spent.
func (v *visitor) giveBackCost(cost int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.paid = v.paid.Add(-time.Duration(cost) * costTime)
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
	// until is when the connection is read again, in Unix nanoseconds. Only those wait
	// that have spent something themselves, and as long as what was spent before them by
	// connections of the same address takes: so others behind the address do not wait.
	until atomic.Int64
	// wary is until when calls pay impatienceCost as they are read, in Unix nanoseconds,
	// and get it back if they were of use. Otherwise hundreds of them, which have waited
	// in the connection, are read and refused at once after each rest.
	wary atomic.Int64
	open context.Context // Ends with the connection, or the port.
	end  context.CancelFunc
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
	return &Address{Addr: from, port: p, visitor: one, open: open, end: end}
}

func (p *Port) leave(a *Address) {
	p.options.Connections.Give(a.Host(), 1)
	a.visitor.mu.Lock()
	a.visitor.conns--
	a.visitor.mu.Unlock()
	a.visitor.giveBack(p.options.Calls)
	a.end()
}

// Host is the address without the port.
func (a *Address) Host() string { return a.visitor.who }

// spend notes that a connection cost something that is of no use.
func (a *Address) spend(cost int) {
	if until := a.visitor.spend(cost); !until.IsZero() {
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

// Useless notes that a call was malformed, or that its caller had been told before not
// to make it.
func Useless(ctx context.Context) {
	if address := addressOf(ctx); address != nil {
		address.spend(callCost)
	}
}

// isWary says that calls are to pay in advance.
func (a *Address) isWary() bool {
	until := a.wary.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// Impatient notes that a call was refused for now, and its caller told when to come again.
func Impatient(ctx context.Context) {
	address := addressOf(ctx)
	if address == nil {
		return
	}
	wary := address.isWary()
	if !wary {
		address.spend(impatienceCost)
	}
	if until := address.until.Load(); wary || until != 0 { // Its address owes.
		address.wary.Store(max(time.Now().UnixNano(), until) + int64(waryTime)) // Also after the rest.
	}
}

// Useful notes that a call was answered.
func Useful(ctx context.Context) {
	if address := addressOf(ctx); address != nil && address.isWary() {
		address.visitor.giveBackCost(impatienceCost)
	}
}
