package raftio

import (
	"context"
	"sync"
	"time"

	"github.com/batondb/baton/replication"
)

// quietAfter is how long after the last entry a pod takes its time with heartbeats:
// while there is work, a late one is likelier, and the processors are awake anyway.
const quietAfter = time.Second

// beats spaces the heartbeats of a quiet cluster. The library sends one every 10 to
// 20 % of the heartbeat timeout, and with nothing to do that is most of what pods
// do; every 30 % leaves a follower three in its timeout, and the master three answers
// in its lease. Nobody waits for one whom somebody needs: the first after hurry goes
// at once.
type beats struct {
	pause time.Duration

	mu      sync.Mutex // guards the fields below
	entries time.Time  // when entries were last sent
	asked   time.Time  // when somebody last was in a hurry
	wake    chan struct{}
}

func newBeats(t replication.Timing) *beats {
	return &beats{pause: min(t.Heartbeat, t.Lease) * 3 / 10, wake: make(chan struct{})}
}

// noteEntries says that entries are being sent.
func (b *beats) noteEntries() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries = time.Now()
}

// hurry lets the heartbeats go that wait, and to each member the next one.
func (b *beats) hurry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = time.Now()
	close(b.wake)
	b.wake = make(chan struct{})
}

// await returns when a heartbeat is due to a member that has confirmed one that was
// sent at last; at once when it has not.
func (b *beats) await(ctx context.Context, last time.Time) {
	b.mu.Lock()
	asked, wake, busy := b.asked, b.wake, time.Since(b.entries) < quietAfter
	b.mu.Unlock()
	if busy || !asked.Before(last) {
		return
	}
	t := time.NewTimer(b.pause - time.Since(last))
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
}
