package server

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

const (
	// leaseTick is how exactly leases end, and how soon new ones are seen.
	leaseTick = 100 * time.Millisecond
	// maxEndings at one time: when a hundred thousand leases end together, the
	// writes of clients must not wait behind all of them.
	maxEndings = 64
	// endingTimeout bounds one attempt to end a lease; it is tried again.
	endingTimeout = 5 * time.Second
)

// leaseExpirer knows when each lease ends, for as long as this pod is the master.
// None of that is replicated: a new master gives every lease its full time again,
// so a lease may last longer than its time, but never ends early.
//
// Times are counted from the expirer's beginning by the monotonic clock: setting
// the wall clock changes nothing, and suspending the machine ends nothing. Time does
// not count while this pod doubts its data, since then nobody can keep a lease
// alive, and it may not even exist.
type leaseExpirer struct {
	store *store.Store
	clock func() time.Duration

	mu      sync.Mutex // guards the fields below
	leases  map[int64]*lease
	queue   leaseQueue
	changes uint64        // Of the store's leases, as of the last refresh.
	ticked  time.Duration // By the clock.
	doubted bool          // At the last tick.
	lost    time.Duration // In doubt.
}

// lease is one lease's end. An id that is granted again is another lease: the index
// of the entry that granted it tells them apart.
type lease struct {
	id      int64
	granted uint64
	ttl     time.Duration
	end     time.Duration
	ending  bool // Its revocation is under way; it cannot be kept alive any more.
	place   int  // In the queue.
}

func newLeaseExpirer(st *store.Store) *leaseExpirer {
	start := time.Now()
	l := &leaseExpirer{store: st, clock: func() time.Duration { return time.Since(start) }, leases: map[int64]*lease{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load()
	return l
}

// elapsed is the time that counts; l.mu is held.
func (l *leaseExpirer) elapsed() time.Duration { return l.clock() - l.lost }

// tick says whether this pod is in doubt.
func (l *leaseExpirer) tick(doubt bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	if doubt || l.doubted {
		l.lost += now - l.ticked
	}
	l.ticked, l.doubted = now, doubt
}

// refresh looks for leases that came and went.
func (l *leaseExpirer) refresh() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.follow()
}

// follow takes in what has changed since the last time; l.mu is held. All leases are
// looked at only by a reader that is far behind: there may be a hundred thousand.
func (l *leaseExpirer) follow() {
	if l.store.LeaseChanges() == l.changes {
		return
	}
	changed, now, ok := l.store.LeasesSince(l.changes)
	if !ok {
		l.load()
		return
	}
	l.begin()
	l.changes = now
	for id, stored := range changed {
		l.take(id, stored)
	}
}

// load takes all of the store's leases; l.mu is held.
func (l *leaseExpirer) load() {
	l.begin()
	all, changes := l.store.Leases()
	l.changes = changes
	held := make(map[int64]bool, len(all))
	for _, stored := range all {
		held[stored.GetId()] = true
		l.take(stored.GetId(), stored)
	}
	for id := range l.leases {
		if !held[id] {
			l.take(id, nil)
		}
	}
}

// begin comes before the first lease; l.mu is held.
func (l *leaseExpirer) begin() {
	if len(l.leases) == 0 {
		l.ticked = l.clock() // Nobody lost what passed without a lease.
	}
}

// take takes in one lease as the store has it, nil if it has ended; l.mu is held. A
// lease that it sees for the first time gets its full time from now on.
func (l *leaseExpirer) take(id int64, stored *kvv1.Lease) {
	have := l.leases[id]
	// An entry can grant an id twice, and this can run in between: so the time to
	// live is compared as well.
	if stored != nil && have != nil && have.granted == stored.GetGrantedIndex() && have.ttl == secondsOf(stored) {
		return
	}
	if have != nil {
		heap.Remove(&l.queue, have.place)
		delete(l.leases, id)
	}
	if stored == nil {
		return
	}
	ttl := secondsOf(stored)
	added := &lease{id: id, granted: stored.GetGrantedIndex(), ttl: ttl, end: l.elapsed() + ttl}
	l.leases[id] = added
	heap.Push(&l.queue, added)
}

// secondsOf converts a time to live; the longest, 285 years, fits into a duration.
func secondsOf(l *kvv1.Lease) time.Duration {
	return time.Duration(min(l.GetTtlSeconds(), MaxTTLSeconds)) * time.Second
}

// keepAlive gives a lease its full time again and returns it; 0: there is no
// such lease, or its time is over.
func (l *leaseExpirer) keepAlive(id int64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.find(id)
	if found == nil {
		return 0
	}
	found.end = l.elapsed() + found.ttl
	heap.Fix(&l.queue, found.place)
	return found.ttl
}

// remaining returns how long a lease lives and how much of that is left.
func (l *leaseExpirer) remaining(id int64) (ttl, left time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.find(id)
	if found == nil {
		return 0, 0, false
	}
	return found.ttl, max(found.end-l.elapsed(), 0), true
}

// find looks into the store when the lease is not known yet; l.mu is held.
func (l *leaseExpirer) find(id int64) *lease {
	l.follow()
	found := l.leases[id]
	if found == nil || found.ending {
		return nil
	}
	return found
}

// over returns leases whose time is over, at most maxEndings, and marks them.
func (l *leaseExpirer) over() []*lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	var over []*lease
	now := l.elapsed()
	for len(l.queue) > 0 && len(over) < maxEndings && l.queue[0].end <= now {
		first := l.queue[0]
		first.ending = true
		// If revoking fails it comes up again a little later.
		first.end = now + endingTimeout
		heap.Fix(&l.queue, 0)
		over = append(over, first)
	}
	return over
}

// due is when to look again: after a tick while there are leases, and otherwise
// when there is one. The number of leases is returned as well.
func (l *leaseExpirer) due() (held int, tick <-chan time.Time, granted <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held = len(l.leases); held == 0 {
		return 0, nil, l.store.LeasesChanged(l.changes)
	}
	return held, time.After(leaseTick), nil
}

// run ends leases until ctx ends.
func (l *leaseExpirer) run(ctx context.Context, c *core) {
	for {
		l.refresh()
		held, tick, granted := l.due()
		c.metrics.leases.Set(float64(held))
		doubt := c.withheld() != nil
		l.tick(doubt)
		if !doubt {
			if over := l.over(); len(over) > 0 {
				endLeases(ctx, c, over)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
		case <-granted:
		}
	}
}

// endLeases proposes the end of each, together, so that they share log entries.
func endLeases(ctx context.Context, c *core, over []*lease) {
	ctx, cancel := context.WithTimeout(ctx, endingTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, l := range over {
		all.Go(func() {
			// End only this lease: its client may have ended it and granted the id again.
			revoke := &kvv1.RevokeRequest{Id: l.id, GrantedIndex: l.granted}
			err := c.proposeAsMaster(ctx, &kvv1.Command{Command: &kvv1.Command_Revoke{Revoke: revoke}})
			if err != nil {
				c.options.Logger.Debug("could not end a lease yet; it is tried again", slog.Int64("lease", l.id), slog.Any("error", err))
				return
			}
			c.metrics.revoked.Inc()
		})
	}
	all.Wait()
}

// leaseQueue is a heap: the lease that ends first is at 0.
type leaseQueue []*lease

func (q leaseQueue) Len() int           { return len(q) }
func (q leaseQueue) Less(i, j int) bool { return q[i].end < q[j].end }
func (q leaseQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *leaseQueue) Push(x any) {
	added := x.(*lease)
	added.place = len(*q)
	*q = append(*q, added)
}

func (q *leaseQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return last
}
