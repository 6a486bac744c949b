package inbound

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/internal/quota"
)

const (
	// idleRate is how many frames and calls a second may come from one address that
	// are of no use: pings, resets, settings, calls that are malformed. Each costs about
	// 10 microseconds of a processor.
	idleRate = 2000
	// idleBurst may come at once: a client with as many calls may cancel all of them.
	idleBurst = 8000
	// longestPause lets a connection that is to be closed do so.
	longestPause = 100 * time.Millisecond
)

// visitor is an address with its connections. If too much comes from it that is of no
// use, they are read less often, and TCP slows their sender.
type visitor struct {
	who     string
	calls   atomic.Int64 // That have begun, and those between Enter and Leave.
	allowed atomic.Int64 // Taken from the quota for them, by mu.
	owing   atomic.Bool  // There is a pause to take.

	mu     sync.Mutex // guards the fields below
	credit float64
	last   time.Time
	conns  int
}

func newVisitor(who string) *visitor {
	return &visitor{who: who, credit: idleBurst, last: time.Now()}
}

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

func (v *visitor) end(calls int) { v.calls.Add(-int64(calls)) }

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

// settle brings credit up to date; v.mu is held.
func (v *visitor) settle() {
	now := time.Now()
	v.credit = min(idleBurst, v.credit+now.Sub(v.last).Seconds()*idleRate)
	v.last = now
}

func (v *visitor) spend(cost float64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.settle()
	if v.credit -= cost; v.credit < 0 {
		v.owing.Store(true)
	}
}

// pause is how long not to read.
func (v *visitor) pause() time.Duration {
	if !v.owing.Load() {
		return 0
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.settle(); v.credit >= 0 {
		v.owing.Store(false)
		return 0
	}
	return min(time.Duration(-v.credit/idleRate*float64(time.Second)), longestPause)
}

// rested says that nothing needs to be remembered.
func (v *visitor) rested() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.settle()
	return v.conns == 0 && v.allowed.Load() == 0 && v.credit >= idleBurst
}

// visitorOf is an address, with one more connection; p.mu is held.
func (p *Port) visitorOf(who string) *visitor {
	one := p.visitors[who]
	if one == nil {
		one = newVisitor(who)
		p.visitors[who] = one
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.conns++
	return one
}

func (v *visitor) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conns--
}

// Useless notes that a call was malformed, or that its caller had been told before not
// to make it.
func Useless(ctx context.Context) {
	if address := addressOf(ctx); address != nil {
		address.visitor.spend(1)
	}
}

// rest keeps the reading goroutine from reading on, while too much came.
func (c *conn) rest() {
	for pause := c.address.visitor.pause(); pause > 0; pause = c.address.visitor.pause() {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-c.address.open.Done():
			timer.Stop()
			return
		}
	}
}
