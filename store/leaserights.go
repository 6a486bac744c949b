package store

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// leaseRights remembers who may write all keys of a lease. To look at 10,000 keys takes
// 10 ms, in which nothing else is applied, and would be done again for each key that is
// attached. It has what looking would find, or nothing: so every pod says the same, also
// one that has just started.
type leaseRights struct {
	mu     sync.Mutex    // guards the fields below
	state  *access.State // Who may do what: all of it is by this.
	leases map[int64]*leaseRight
	held   int // Users, over all leases.
}

// leaseRight is how many keys a lease has, and the users who may write all of them.
type leaseRight struct {
	keys  int
	users map[string]struct{}
}

// maxLeaseRights bounds the memory: then it begins anew.
const maxLeaseRights = 100_000

// of says how many keys a lease has, if it is known that a user may write all of them.
func (r *leaseRights) of(state *access.State, user string, lease int64) (keys int, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.leases[lease]
	if r.state != state || one == nil {
		return 0, false
	}
	_, known = one.users[user]
	return one.keys, known
}

// note remembers that a user may write all keys of a lease, so many.
func (r *leaseRights) note(state *access.State, user string, lease int64, keys int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != state || r.held >= maxLeaseRights {
		r.state, r.leases, r.held = state, map[int64]*leaseRight{}, 0
	}
	one := r.leases[lease]
	if one == nil {
		one = &leaseRight{keys: keys, users: map[string]struct{}{}}
		r.leases[lease] = one
	}
	one.users[user] = struct{}{}
	r.held++
}

// moved follows a key from one lease to another; 0: none.
func (r *leaseRights) moved(state *access.State, key []byte, from, to int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.leases) == 0 || r.state != state {
		return
	}
	if one := r.leases[from]; one != nil {
		one.keys--
	}
	one := r.leases[to]
	if one == nil {
		return
	}
	one.keys++
	for user := range one.users {
		if state.Write(caller.Caller{User: user}, key, nil) != nil {
			delete(one.users, user)
			r.held--
		}
	}
}

// forget is for a lease that has ended or begins.
func (r *leaseRights) forget(lease int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one := r.leases[lease]; one != nil {
		delete(r.leases, lease)
		r.held -= len(one.users)
	}
}

// MayWriteLease says how many keys a lease has, if a caller may write all of them by
// these rights; a lease that is not there has none. Any goroutine may call it.
func (s *Store) MayWriteLease(state *access.State, who caller.Caller, lease int64) (keys int, err error) {
	if keys, known := s.rights.leases.of(state, who.User, lease); known {
		return keys, nil
	}
	v, err := s.view(context.Background())
	if err != nil {
		return 0, err
	}
	defer v.close()
	defer s.guard(&err)
	return v.mayWriteLease(state, who, lease, v.revision)
}

// maxLeaseKeysRead is how many keys leases may have that are listed for a user without the
// role "root": some 100 ms of one processor.
const maxLeaseKeysRead = 100_000

// MayReadLeases refuses a caller who may not read, by these rights, all keys that some
// leases have at one moment. It fails with TOO_LARGE when they have too many. Any goroutine
// may call it.
func (s *Store) MayReadLeases(ctx context.Context, state *access.State, who caller.Caller, leases []*kvv1.Lease) (err error) {
	if err := state.Known(who); err != nil {
		return err
	}
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	defer v.close()
	defer s.guard(&err)
	looked := 0
	for _, lease := range leases {
		for key, err := range v.leaseKeys(lease.GetId()) {
			if err == nil {
				err = v.mayReadKeyOf(lease.GetId(), key, state, who)
			}
			if err == nil {
				err = ctx.Err()
			}
			if looked++; err == nil && looked > maxLeaseKeysRead {
				err = errManyLeaseKeys
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

var errManyLeaseKeys = &refusal.Error{
	Reason: kvv1.ErrorReason_ERROR_REASON_TOO_LARGE,
	Message: fmt.Sprintf("the leases have more than %d keys, each of which would be looked at: "+
		"list them as a user with the role %q, or ask for the time to live of each", maxLeaseKeysRead, access.Root),
	Metadata: map[string]string{"field": "keys of the leases", "limit": strconv.Itoa(maxLeaseKeysRead)},
}

// mayReadKeyOf refuses a caller who may not read a key, if it still is of a lease.
func (v *view) mayReadKeyOf(lease int64, key []byte, state *access.State, who caller.Caller) error {
	refused := state.Read(who, key, nil)
	if refused == nil {
		return nil
	}
	if has, err := v.hasLease(key, lease, v.revision); err != nil || !has {
		return err
	}
	return refused
}

func (v *view) mayWriteLease(state *access.State, who caller.Caller, lease, revision int64) (keys int, err error) {
	if !v.store.leases.has(lease) {
		return 0, nil
	}
	for key, err := range v.leaseKeys(lease) {
		if err != nil {
			return 0, err
		}
		has, err := v.hasLease(key, lease, revision)
		if err == nil && has {
			keys, err = keys+1, state.Write(who, key, nil)
		}
		if err != nil {
			return 0, err
		}
	}
	return keys, nil
}

// mayWriteLease is MayWriteLease for the command at hand.
func (a *applier) mayWriteLease(lease int64) (keys int, err error) {
	if !a.store.leases.has(lease) {
		return 0, nil
	}
	state, rights := a.store.Access(), &a.store.rights.leases
	if keys, known := rights.of(state, a.caller.User, lease); known {
		return keys, nil
	}
	keys, err = a.view.mayWriteLease(state, a.caller, lease, a.st.Revision)
	if err == nil {
		rights.note(state, a.caller.User, lease, keys)
	}
	return keys, err
}
