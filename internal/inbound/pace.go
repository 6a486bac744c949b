package inbound

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/peer"
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

// pace slows down the connections of one address from which too much comes that is of
// no use: they are read less often, and TCP slows their sender.
type pace struct {
	owing atomic.Bool // There is a pause to take.

	mu     sync.Mutex // guards the fields below
	credit float64
	last   time.Time
	conns  int
}

func newPace() *pace { return &pace{credit: idleBurst, last: time.Now()} }

// settle brings credit up to date; p.mu is held.
func (p *pace) settle() {
	now := time.Now()
	p.credit = min(idleBurst, p.credit+now.Sub(p.last).Seconds()*idleRate)
	p.last = now
}

func (p *pace) spend(cost float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle()
	if p.credit -= cost; p.credit < 0 {
		p.owing.Store(true)
	}
}

// pause is how long not to read.
func (p *pace) pause() time.Duration {
	if !p.owing.Load() {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settle(); p.credit >= 0 {
		p.owing.Store(false)
		return 0
	}
	return min(time.Duration(-p.credit/idleRate*float64(time.Second)), longestPause)
}

// rested says that nothing needs to be remembered.
func (p *pace) rested() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle()
	return p.conns == 0 && p.credit >= idleBurst
}

// paceOf is the pace of an address, for one more connection; p.mu is held.
func (p *Port) paceOf(who string) *pace {
	one := p.paces[who]
	if one == nil {
		one = newPace()
		p.paces[who] = one
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.conns++
	return one
}

func (p *pace) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns--
}

// Useless notes that a call was malformed, or that its caller had been told before not
// to make it.
func Useless(ctx context.Context) {
	if from, ok := peer.FromContext(ctx); ok {
		if address, ok := from.Addr.(*Address); ok {
			address.pace.spend(1)
		}
	}
}

// rest keeps the reading goroutine from reading on, while too much came.
func (c *conn) rest() {
	for pause := c.address.pace.pause(); pause > 0; pause = c.address.pace.pause() {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-c.address.open.Done():
			timer.Stop()
			return
		}
	}
}
