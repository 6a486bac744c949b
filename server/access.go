package server

import (
	"context"
	"time"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// access is who may do what on this pod; nil while it has no store, or never had users.
func (c *core) access() *access.State {
	if st := c.store.Load(); st != nil {
		return st.Access()
	}
	return nil
}

// checked asks this pod's rights. What they refuse may have been granted in what this
// pod has not applied yet: it is asked again once it has; see rights.
func (c *core) checked(ctx context.Context, check func(*access.State) error) error {
	if err := check(c.access()); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, defaultDeadline)
	defer cancel()
	st, err := c.newest(ctx)
	if err != nil {
		return err
	}
	return check(st.Access())
}

// enabledSince says whether access control is on in what this pod has yet to apply: the
// sender of a token has heard so, perhaps from another pod.
func (c *core) enabledSince(ctx context.Context) bool {
	log, err := c.needLog()
	if err != nil || log.IsMaster() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, defaultDeadline)
	defer cancel()
	st, err := c.prepareRead(ctx, nil)
	return err == nil && st.Access().Enabled()
}

// allow refuses a call whose caller does not have what its method needs.
func (c *core) allow(ctx context.Context, needs need) error {
	switch {
	case needs == administrator && c.store.Load() == nil:
		_, err := c.needStore() // Who is an administrator is not known yet.
		return err
	case !c.access().Enabled():
		return nil
	}
	who := caller.From(ctx)
	return c.checked(ctx, func(state *access.State) error {
		if needs == administrator {
			return state.Admin(who)
		}
		return state.Known(who)
	})
}

// rightsPatience is how long an order waits for this pod's rights to be the newest. What
// it is for, such as a master that applies nothing more, may be why they cannot be.
const rightsPatience = 2 * time.Second

// mayOrder refuses a caller who is no administrator by the rights that there are now, on
// any pod: for what does not go through the log, where the master would see to that.
func (c *core) mayOrder(ctx context.Context) error {
	log, err := c.needLog()
	if err != nil {
		return err
	}
	reading, cancel := context.WithTimeout(ctx, rightsPatience)
	defer cancel()
	_ = log.LinearizableRead(reading) // Without it this pod's rights have to do.
	return c.allow(ctx, administrator)
}

var errDenied error = &refusal.Error{
	Reason:  kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED,
	Message: "nobody may call this method",
}

// permit refuses a command that the caller may not give, before it goes into the log,
// and notes in it whose it is: what counts is what the caller may do when it is applied.
func (c *core) permit(ctx context.Context, st *store.Store, command *kvv1.Command) error {
	if !st.Access().Enabled() {
		return nil
	}
	who := caller.From(ctx)
	if err := c.checked(ctx, func(state *access.State) error {
		return state.Permit(who, command, func(lease int64) (int, error) { return st.MayWriteLease(state, who, lease) })
	}); err != nil {
		return err
	}
	identity := access.Identity(who)
	identity.Reads = command.GetIdentity().GetReads()
	command.Identity = identity
	return nil
}

// mayReadLeases refuses a caller who may not read the keys of all leases.
func (c *core) mayReadLeases(ctx context.Context, st *store.Store, leases []*kvv1.Lease) error {
	who := caller.From(ctx)
	if c.access().Admin(who) == nil {
		return nil
	}
	return c.checked(ctx, func(state *access.State) error { return st.MayReadLeases(ctx, state, who, leases) })
}

// mayKeepAlive refuses a caller who may not write the keys of a lease.
func (c *core) mayKeepAlive(ctx context.Context, lease int64) error {
	if c.access().Admin(caller.From(ctx)) == nil {
		return nil
	}
	st, err := c.needStore()
	if err != nil {
		return err
	}
	who := caller.From(ctx)
	return c.checked(ctx, func(state *access.State) error {
		if err := state.Known(who); err != nil {
			return err
		}
		_, err := st.MayWriteLease(state, who, lease)
		return err
	})
}

// mayReadKeys refuses a caller who may not read all of some keys.
func (c *core) mayReadKeys(ctx context.Context, keys [][]byte) error {
	if !c.access().Enabled() {
		return nil
	}
	who := caller.From(ctx)
	return c.checked(ctx, func(state *access.State) error {
		for _, key := range keys {
			if err := state.Read(who, key, nil); err != nil {
				return err
			}
		}
		return state.Known(who)
	})
}

// mayWatch refuses a watch of what the caller may not read, and one by a proof whose time
// is over: the stream that it came on may be older than that.
func (c *core) mayWatch(ctx context.Context, req *kvv1.WatchRequest) error {
	if err := unproved(ctx); err != nil {
		return err
	}
	if who := caller.From(ctx); !who.Until.IsZero() && time.Now().After(who.Until) {
		return errLapsed(who)
	}
	return c.mayRead(ctx, &kvv1.KeyRange{Key: req.GetKey(), RangeEnd: req.GetRangeEnd()})
}

// mayRead refuses a caller who may not read all of some ranges. Reads that ask the master
// are refused by it before they do, others by the rights that are where they read.
func (c *core) mayRead(ctx context.Context, ranges ...*kvv1.KeyRange) error {
	if !c.access().Enabled() {
		return nil
	}
	who := caller.From(ctx)
	return c.checked(ctx, func(state *access.State) error {
		for _, r := range ranges {
			if err := state.Read(who, r.GetKey(), r.GetRangeEnd()); err != nil {
				return err
			}
		}
		return nil
	})
}

type unprovedKey struct{}

// withUnproved keeps why a caller is not who it says, for the answers to its requests.
func withUnproved(ctx context.Context, err error) context.Context {
	if err == nil {
		return ctx
	}
	return context.WithValue(ctx, unprovedKey{}, err)
}

func unproved(ctx context.Context) error {
	err, _ := ctx.Value(unprovedKey{}).(error)
	return err
}

// asPod is the context of what the pod does itself.
func asPod(ctx context.Context) context.Context {
	return caller.With(ctx, caller.Caller{By: caller.Pod})
}

// shareDeadline is deadlines.share, and keeps who calls.
func (c *core) shareDeadline(ctx context.Context) context.Context {
	shared := c.deadlines.share(ctx)
	if shared != ctx && c.access().Enabled() {
		return caller.With(shared, caller.From(ctx))
	}
	return shared
}
