package client

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// keepersPerTTL is how many keep-alives are sent in one time to live: two may
// be lost.
const keepersPerTTL = 3

// keepers are the leases that a client keeps alive, over one stream that is
// open while there are any.
type keepers struct {
	mu      sync.Mutex // guards all below, and is held for no call
	leases  map[int64]*keeper
	running bool
	wake    chan struct{} // a lease was added
}

// keeper is one lease that is kept alive, for one or more holders. keepers.mu
// guards it.
type keeper struct {
	ttl     time.Duration
	next    time.Time // when to send the next keep-alive
	sent    time.Time
	waiting bool // for the answer to the last one
	// expire fires when the lease may have ended without a word from the master.
	expire  *time.Timer
	holders map[*holder]struct{}
}

type holder struct {
	cancel context.CancelCauseFunc
}

func (k *keepers) add(c *Client, ctx context.Context, lease int64, ttl time.Duration, until time.Time) context.Context {
	held, cancel := context.WithCancelCause(ctx)
	h := &holder{cancel: cancel}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.leases == nil {
		k.leases, k.wake = map[int64]*keeper{}, make(chan struct{}, 1)
	}
	l := k.leases[lease]
	if l == nil {
		l = &keeper{holders: map[*holder]struct{}{}, next: time.Now()}
		l.expire = time.AfterFunc(time.Until(until), func() { k.lost(lease, ErrLeaseNotFound) })
		k.leases[lease] = l
	}
	l.ttl = ttl
	l.holders[h] = struct{}{}
	context.AfterFunc(held, func() { k.remove(lease, h) })
	if !k.running {
		k.running = true
		c.tasks.Go(func() { k.run(c) })
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return held
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

// run holds the stream while there are leases.
func (k *keepers) run(c *Client) {
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
	k.mu.Lock()
	var ids []int64
	for id := range k.leases {
		ids = append(ids, id)
	}
	k.mu.Unlock()
	for _, id := range ids {
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
			l.waiting, l.next = false, time.Now()
		}
	}
	k.mu.Unlock()
	received := make(chan error, 1)
	go func() {
		defer cancel()
		received <- k.receive(stream, alive)
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
// there are no leases.
func (k *keepers) send(ctx context.Context, stream kvv1.LeaseService_KeepAliveClient, alive *watchdog) bool {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, next := k.due(time.Now())
		if len(due) == 0 && next.IsZero() {
			return true
		}
		for _, id := range due {
			if stream.Send(&kvv1.KeepAliveRequest{Id: id}) != nil {
				return false
			}
		}
		if len(due) > 0 {
			alive.resume()
		}
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return false
		case <-k.wake:
		case <-timer.C:
		}
	}
}

// due gives the leases to keep alive now, and when to ask again; zero when
// there are no leases.
func (k *keepers) due(now time.Time) (due []int64, next time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, l := range k.leases {
		if !l.next.After(now) && !l.waiting {
			due = append(due, id)
			l.sent, l.waiting = now, true
			l.next = now.Add(l.ttl / keepersPerTTL)
		}
		if next.IsZero() || l.next.Before(next) {
			next = l.next
		}
	}
	if soonest := now.Add(20 * time.Millisecond); !next.IsZero() && next.Before(soonest) {
		next = soonest // leases that are due at almost the same time go together
	}
	return due, next
}

// receive reads answers until the stream breaks.
func (k *keepers) receive(stream kvv1.LeaseService_KeepAliveClient, alive *watchdog) error {
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		alive.pause()
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
		l.expire.Reset(time.Until(l.sent.Add(ttl)))
	}
}
