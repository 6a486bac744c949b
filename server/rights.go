package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/store"
)

// rights is how old this pod's may be, and how it gets the master's.
//
// Whoever this pod would refuse may have been given the right in what it has not applied
// yet, so it reads its way up to the master first. Those who are refused together do that
// together, and the more they are, the longer the next ones wait before they do: however
// many calls are refused, the master has little to do with it. There is one reading at a
// time. The same goes for what strangers may ask: to log in, for example.
type rights struct {
	asOf atomic.Pointer[time.Time] // When this pod last had all that the master had; nil: never.

	mu    sync.Mutex // guards the fields below
	after time.Time  // When the next reading may begin.
	next  *reading   // It has not begun: it is for all who come before that. nil: none.
	last  *reading   // The one that began last; nil: none has.
}

// reading is one of the master's rights.
type reading struct {
	calls int           // That wait for it; rights.mu guards it.
	done  chan struct{} // Closed when the fields below are set.
	store *store.Store
	err   error
}

// newest returns the store when it has all that the master had during the call.
func (c *core) newest(ctx context.Context) (*store.Store, error) {
	r := &c.rights
	r.mu.Lock()
	one := r.next
	if one == nil && c.stopping.Err() != nil { // Stop is about to wait for what has begun.
		r.mu.Unlock()
		return nil, errStopping
	}
	if one == nil {
		one = &reading{done: make(chan struct{})}
		before, after := r.last, r.after
		r.next = one
		c.outliving.Go(func() {
			if before != nil {
				<-before.done
			}
			sleep.For(c.stopping, time.Until(after))
			c.read(one)
		})
	}
	one.calls++
	r.mu.Unlock()
	select {
	case <-one.done:
		return one.store, one.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// read does a reading.
func (c *core) read(one *reading) {
	r := &c.rights
	r.mu.Lock()
	r.next, r.last, r.after = nil, one, time.Now().Add(min(time.Duration(one.calls)*refusalPause, maxRefusalPause))
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.stopping, defaultDeadline)
	defer cancel()
	one.store, one.err = c.catchUp(ctx)
	if one.err != nil && c.stopping.Err() != nil {
		one.err = errStopping
	}
	close(one.done)
}

func (c *core) catchUp(ctx context.Context) (*store.Store, error) {
	asked := time.Now()
	st, err := c.prepareRead(asPod(ctx), nil)
	if err == nil {
		c.rights.asOf.Store(&asked)
	}
	return st, err
}

// watchRights has this pod have the master's rights now and then, while access control is
// on, until ctx ends.
func (c *core) watchRights(ctx context.Context) {
	for sleep.For(ctx, rightsInterval) {
		if !c.access().Enabled() {
			continue
		}
		patience, cancel := context.WithTimeout(ctx, defaultDeadline)
		_, _ = c.catchUp(patience) // Without it the rights get older.
		cancel()
	}
}

// outdated refuses a caller whom this pod alone is to answer, when it has not had all that
// the master has for so long that rights of then may well be lost by now.
func (c *core) outdated(ctx context.Context) error {
	if !c.access().Enabled() || caller.From(ctx).By == caller.Pod || c.rights.young() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, rightsPatience)
	defer cancel()
	if _, err := c.newest(ctx); err == nil {
		return nil
	}
	return errRightsOld
}

func (r *rights) young() bool {
	asOf := r.asOf.Load()
	return asOf != nil && time.Since(*asOf) < maxRightsAge
}

var errRightsOld = errNotReady("it has heard nothing of the master since its start, or for " + maxRightsAge.String() +
	", and does not know who may still read")
