package client

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// keepersPerTTL is how many keep-alives are sent in one time to live: two may
	// be lost. It is also how much of it one pod may take for an answer before
	// another one is asked, whatever the client's patience is otherwise: after an
	// outage that is longer than a time to live.
	keepersPerTTL = 3
	// clockInterval is how soon it is noticed that the machine slept.
	clockInterval = 100 * time.Millisecond
)

// keepers are the leases that a client keeps alive, over one stream that is
// open while there are any.
type keepers struct {
	mu      sync.Mutex // guards all below, and is held for no call
	leases  map[int64]*keeper
	running bool
	wake    chan struct{} // a lease was added
	// clock is time.Now, except in tests.
	clock func() time.Time
}

// keeper is one lease that is kept alive, for one or more holders. keepers.mu
// guards it.
type keeper struct {
	ttl     time.Duration
	next    time.Time // when to send the next keep-alive
	sent    time.Time
	waiting bool // for the answer to the last one
	// until is when the lease may end without a word from the master, and expire
	// fires then.
	until   time.Time
	expire  *time.Timer
	holders map[*holder]struct{}
}

// over says that the lease may have ended. The monotonic clock, which times are
// compared by and timers run by, stands still while a machine sleeps; the wall
// clock does not, but may be set back. Whichever is further has the word.
func (l *keeper) over(now time.Time) bool {
	return !now.Before(l.until) || !now.Round(0).Before(l.until.Round(0))
}

// holder is one context that ends with the lease. Whoever asks it looks at the
// clock: a machine that has just woken up would have to wait for a timer.
type holder struct {
	context.Context
	cancel context.CancelCauseFunc
	look   func()
}

func (h *holder) Err() error {
	h.look()
	return h.Context.Err()
}

func (k *keepers) now() time.Time {
	if k.clock != nil {
		return k.clock()
	}
	return time.Now()
}

func (k *keepers) add(c *Client, ctx context.Context, lease int64, ttl time.Duration, until time.Time) context.Context {
	h := &holder{look: func() { k.endIfOver(lease) }}
	h.Context, h.cancel = context.WithCancelCause(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.leases == nil {
		k.leases, k.wake = map[int64]*keeper{}, make(chan struct{}, 1)
	}
	l := k.leases[lease]
	if l == nil {
		l = &keeper{holders: map[*holder]struct{}{}, next: k.now(), until: until}
		l.expire = time.AfterFunc(time.Until(until), func() { k.endIfOver(lease) })
		k.leases[lease] = l
	}
	l.ttl = ttl
	l.holders[h] = struct{}{}
	context.AfterFunc(h.Context, func() { k.remove(lease, h) })
	if !k.running {
		k.running = true
		c.tasks.Go(func() { k.run(c) })
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return h
}

// remove forgets a holder, and the lease with its last one.
func (k *keepers) remove(lease int64, h *holder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.leases[lease]
	if l == nil {
		return
	}
	delete(l.holders, h)
	if len(l.holders) == 0 {
		l.expire.Stop()
		delete(k.leases, lease)
	}
}

// lost tells every holder of a lease that it has ended.
func (k *keepers) lost(lease int64, cause error) {
	k.mu.Lock()
	l := k.leases[lease]
	delete(k.leases, lease)
	k.mu.Unlock()
	if l == nil {
		return
	}
	l.expire.Stop()
	for h := range l.holders {
		h.cancel(cause)
	}
}

// endIfOver ends a lease that may have ended on the master.
func (k *keepers) endIfOver(lease int64) {
	k.mu.Lock()
	l := k.leases[lease]
	over := l != nil && l.over(k.now())
	k.mu.Unlock()
	if over {
		k.lost(lease, ErrLeaseNotFound)
	}
}

// watchClock ends leases whose time went by while the timers stood still.
func (k *keepers) watchClock(ctx context.Context) {
	tick := time.NewTicker(clockInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, id := range k.ids() {
			k.endIfOver(id)
		}
	}
}

func (k *keepers) ids() (ids []int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range k.leases {
		ids = append(ids, id)
	}
	return ids
}

// run holds the stream while there are leases.
func (k *keepers) run(c *Client) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.tasks.Go(func() { k.watchClock(ctx) })
	var backoff pause
	for {
		err := c.stream(c.ctx, theMaster, k.overStream)
		if c.ctx.Err() != nil {
			k.close()
			return
		}
		k.mu.Lock()
		if len(k.leases) == 0 {
			k.running = false
			k.mu.Unlock()
			return
		}
		k.mu.Unlock()
		if err != nil {
			backoff.wait(c.ctx, fromRPC(err))
		}
	}
}

// close tells every holder that the client is closed.
func (k *keepers) close() {
	for _, id := range k.ids() {
		k.lost(id, ErrClosed)
	}
}

// overStream keeps the leases alive over one stream; nil when none are left.
func (k *keepers) overStream(ctx context.Context, conn *grpc.ClientConn, alive *watchdog) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := kvv1.NewLeaseServiceClient(conn).KeepAlive(ctx)
	if err != nil {
		cancel()
		return err
	}
	alive.pause()
	k.mu.Lock()
	for _, l := range k.leases {
		if l.waiting { // its answer was lost with the last stream
			l.waiting, l.next = false, k.now()
		}
	}
	k.mu.Unlock()
	received := make(chan error, 1)
	go func() {
		defer cancel()
		received <- k.receive(stream)
	}()
	idle := k.send(ctx, stream, alive)
	cancel()
	err = <-received
	if idle {
		return nil
	}
	return err
}

// send sends keep-alives when they are due, until the stream breaks or (true)
// there are no leases. It ends the stream, as one of a pod that hangs, when an
// answer is overdue.
func (k *keepers) send(ctx context.Context, stream kvv1.LeaseService_KeepAliveClient, alive *watchdog) bool {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, next, overdue := k.due(k.now(), alive.timeout)
		switch {
		case overdue:
			alive.timer.Reset(0)
			<-ctx.Done()
			return false
		case next.IsZero():
			return true
		}
		alive.resume() // a pod that does not read blocks Send
		for _, id := range due {
			if stream.Send(&kvv1.KeepAliveRequest{Id: id}) != nil {
				return false
			}
		}
		alive.pause()
		timer.Reset(next.Sub(k.now()))
		select {
		case <-ctx.Done():
			return false
		case <-k.wake:
		case <-timer.C:
		}
	}
}

// due gives the leases to keep alive now, and when to ask again; zero when
// there are no leases. overdue says that a pod has had its time for an answer.
func (k *keepers) due(now time.Time, patience time.Duration) (due []int64, next time.Time, overdue bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, l := range k.leases {
		if !l.waiting && !l.next.After(now) {
			due = append(due, id)
			l.sent, l.waiting = now, true
			l.next = now.Add(l.ttl / keepersPerTTL)
		}
		at := l.next
		if l.waiting {
			at = l.sent.Add(min(patience, l.ttl/keepersPerTTL))
			overdue = overdue || !at.After(now)
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if soonest := now.Add(20 * time.Millisecond); !next.IsZero() && next.Before(soonest) {
		next = soonest // leases that are due at almost the same time go together
	}
	return due, next, overdue
}

// receive reads answers until the stream breaks.
func (k *keepers) receive(stream kvv1.LeaseService_KeepAliveClient) error {
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if response.GetTtlSeconds() <= 0 {
			k.lost(response.GetId(), ErrLeaseNotFound)
			continue
		}
		k.renewed(response.GetId(), time.Duration(response.GetTtlSeconds())*time.Second)
	}
}

func (k *keepers) renewed(lease int64, ttl time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.leases[lease]; l != nil && l.waiting {
		l.waiting, l.ttl = false, ttl
		// Counted from before the keep-alive was sent, so that the lease never ends
		// on the master before it ends here.
		l.until = l.sent.Add(ttl)
		l.expire.Reset(time.Until(l.until))
	}
}
