package server

import (
	"context"
	"sync"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// heldLeases are those that clients of this pod were granted since it started, and by
// whom, until they end: each is in memory on every pod. It forgets an ended one within
// leaseSweep, and one that another pod granted was never here.
type heldLeases struct {
	mu sync.Mutex // guards by
	by map[int64]heldLease
}

type heldLease struct {
	who string
	// settled: it was in the store, or has had the time to get there.
	settled bool
}

// grant proposes a lease, if its caller may have one more.
func (c *core) grant(ctx context.Context, req *kvv1.GrantRequest) (*kvv1.GrantResponse, error) {
	who := whoCalls(ctx)
	if err := c.bounds.leases.Take(who, 1); err != nil {
		return nil, err
	}
	granted, err := propose(ctx, c, &kvv1.Command{Command: &kvv1.Command_Grant{Grant: req}}, (*kvv1.Result).GetGrant)
	if err != nil {
		c.bounds.leases.Give(who, 1)
		return nil, err
	}
	c.bounds.held.mu.Lock()
	defer c.bounds.held.mu.Unlock()
	if before, ok := c.bounds.held.by[granted.GetId()]; ok { // It ended unnoticed, or this is a repetition.
		c.bounds.leases.Give(before.who, 1)
	}
	c.bounds.held.by[granted.GetId()] = heldLease{who: who}
	return granted, nil
}

// sweepLeases looks for leases that have ended, until ctx ends.
func (c *core) sweepLeases(ctx context.Context) {
	tick := time.NewTicker(leaseSweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if st := c.store.Load(); st != nil {
			c.sweepEnded(st)
		}
	}
}

func (c *core) sweepEnded(st *store.Store) {
	c.bounds.held.mu.Lock()
	defer c.bounds.held.mu.Unlock()
	for id, lease := range c.bounds.held.by {
		switch {
		case !st.HasLease(id) && lease.settled:
			delete(c.bounds.held.by, id)
			c.bounds.leases.Give(lease.who, 1)
		case !lease.settled:
			lease.settled = true
			c.bounds.held.by[id] = lease
		}
	}
}
