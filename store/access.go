package store

import (
	"context"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// rights are who may do what, as of the newest change that was applied.
type rights struct {
	state   atomic.Pointer[access.State] // nil before the first change.
	changed signal                       // Broadcast for every change.
	leases  leaseRights
	usages  usages
}

func (r *rights) replace(state *access.State) {
	r.state.Store(state)
	r.changed.broadcast()
}

// Access is who may do what on this pod now; nil before the first change.
func (s *Store) Access() *access.State { return s.rights.state.Load() }

// AccessChanged returns a channel that the next change of Access closes: take it first.
func (s *Store) AccessChanged() <-chan struct{} { return s.rights.changed.wait() }

// mayRead refuses a caller who may not read a range. It comes after the view: what
// the view has was written before, and so were the changes of rights before that.
func (s *Store) mayRead(ctx context.Context, req *kvv1.RangeRequest) error {
	state := s.Access()
	if !state.Enabled() {
		return nil
	}
	return state.Read(caller.From(ctx), req.GetKey(), req.GetRangeEnd())
}

// For says who watches: while access control is on, a watcher that is nobody's fails.
// It comes before everything else.
func (w *Watcher) For(who caller.Caller) { w.caller = who }

// mayRead fails once the watcher's caller may no longer read all of its keys. It comes
// after the changes were read: what they have was written before.
func (w *Watcher) mayRead() error {
	state := w.store.Access()
	if state == w.allowed {
		return nil
	}
	if err := state.Read(w.caller, w.request.GetKey(), w.request.GetRangeEnd()); err != nil {
		return err
	}
	w.allowed = state
	return nil
}

// withhold ends a watcher, for good, where it was before something was read that its
// caller does not get.
func (w *Watcher) withhold(err error) {
	hub := w.store.watches
	hub.mu.Lock()
	defer hub.mu.Unlock()
	w.err = err
	if w.reading != 0 {
		w.pending = w.reading
	}
}

// permitted runs a command that the caller may give. What the caller may do is the
// same on every pod here, whatever it was where the command came in.
func (a *applier) permitted(command *kvv1.Command) (*kvv1.Result, error) {
	if state := a.store.Access(); state.Enabled() {
		if err := state.Permit(a.caller, command, a.mayWriteLease); err != nil {
			return nil, err
		}
	}
	return a.run(command)
}

// identify finds out whose command it is; an empty user is nobody, or a pod.
func (a *applier) identify(command *kvv1.Command) (user string, err error) {
	state := a.store.Access()
	if !state.Enabled() {
		return "", nil
	}
	a.caller = access.Of(command.GetIdentity())
	return a.caller.User, state.Known(a.caller)
}

func (a *applier) changeAuth(change *kvv1.AuthChange) (*kvv1.ChangeAuthResponse, error) {
	if count := change.GetCountTenant(); count != nil {
		return a.countTenant(count)
	}
	before := a.store.Access()
	after, err := before.Apply(change)
	if err != nil {
		return nil, err
	}
	if after != before {
		a.setAccess(after)
		if before.Enabled() != after.Enabled() {
			// An earlier request had another owner, or none: whoever repeats it must
			// neither be given the answer nor do it twice.
			a.st.Requests.Floor = a.st.Revision
		}
	}
	return &kvv1.ChangeAuthResponse{Header: a.header(), AuthRevision: after.Revision()}, nil
}

// setAccess makes the file's format one that earlier versions refuse: they would
// serve everybody. With tenants it is one more: others would not count.
func (a *applier) setAccess(state *access.State) {
	a.st.Format, a.st.AccessHash = max(a.st.Format, accessFormat), xxhash.Sum64(state.Encode())
	if state.HasTenants() {
		a.st.Format = tenantsFormat
	}
	a.store.rights.usages.follow(a.store.Access(), state)
	a.table.access = state
	a.store.rights.replace(state)
	a.store.watches.recheck()
}

// raiseFormat writes the format that the state needs into the file before an entry is
// answered, without waiting for the flush. Until it was in the file, an earlier version
// that is started after a crash would open it, and serve everybody until it comes
// to the entry that it does not know.
func (a *applier) raiseFormat() error {
	err := careful(func() error {
		return a.store.flusher.update(func(tx *bbolt.Tx) error {
			st, _, err := loadState(tx)
			if err != nil {
				return err
			}
			st.Format = a.st.Format
			return tx.Bucket(bucketMeta).Put(stateKey, st.encode())
		})
	})
	if err == nil {
		a.format = a.st.Format
	}
	return err
}

// accessKey holds who may do what, in bucketMeta.
var accessKey = []byte("access")

func flushAccess(tx *bbolt.Tx, t *table) error {
	if t.access == nil {
		return nil
	}
	record := append(make([]byte, checksumBytes), t.access.Encode()...)
	return tx.Bucket(bucketMeta).Put(accessKey, seal(accessKey, record))
}

// loadAccess reads who may do what, and fails if that is not what st was written with.
func loadAccess(tx *bbolt.Tx, st *state) (*access.State, error) {
	record := tx.Bucket(bucketMeta).Get(accessKey)
	if record == nil {
		if st.AccessHash != 0 {
			return nil, corrupt("there is no record of users and roles")
		}
		return nil, nil
	}
	payload, err := unseal(accessKey, record)
	if err != nil {
		return nil, err
	}
	if xxhash.Sum64(payload) != st.AccessHash {
		return nil, corrupt("users and roles are not those that were written")
	}
	stored := &kvv1.AuthState{}
	if err := proto.Unmarshal(payload, stored); err != nil {
		return nil, corrupt("users and roles: %v", err)
	}
	state := access.Load(stored)
	return state, checkUsages(state, st.Tenants)
}
