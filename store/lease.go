package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"iter"
	"maps"
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// leaseSet is every lease by its id. Leases are few beside keys; their keys stay
// on disk.
type leaseSet struct {
	mu      sync.RWMutex
	granted map[int64]*kvv1.Lease
	changes uint64
	changed chan struct{} // closed at the next change; nil: nobody waits
	// recent has the id of each of the last changes, by number, and since replaced
	// all of them.
	recent   [recentLeases]int64
	replaced uint64
}

// recentLeases is how far behind a reader may be who wants changes alone: some
// seconds of grants at full speed.
const recentLeases = 1 << 13

// note says that a lease has changed; l.mu is held.
func (l *leaseSet) note(id int64) {
	l.changes++
	l.recent[l.changes%recentLeases] = id
	l.wake()
}

// wake wakes whoever waits for a change; l.mu is held.
func (l *leaseSet) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func (l *leaseSet) has(id int64) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	_, ok := l.granted[id]
	return ok
}

// get returns nil when there is no such lease.
func (l *leaseSet) get(id int64) *kvv1.Lease {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.granted[id]
}

// set grants a lease, or with nil ends it.
func (l *leaseSet) set(id int64, lease *kvv1.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lease != nil {
		l.granted[id] = lease
	} else {
		delete(l.granted, id)
	}
	l.note(id)
}

func (l *leaseSet) replace(granted map[int64]*kvv1.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.granted = granted
	l.changes++
	l.replaced = l.changes
	l.wake()
}

// Leases returns every lease, in the order of ids, and a number that is another
// one whenever the set has changed. An id that is granted again is another lease,
// with another granted_index. Nobody may change them.
func (s *Store) Leases() ([]*kvv1.Lease, uint64) {
	s.leases.mu.RLock()
	defer s.leases.mu.RUnlock()
	leases := make([]*kvv1.Lease, 0, len(s.leases.granted))
	for _, id := range sortedKeys(s.leases.granted) {
		leases = append(leases, s.leases.granted[id])
	}
	return leases, s.leases.changes
}

// HasLease says whether there is a lease with an id.
func (s *Store) HasLease(id int64) bool { return s.leases.has(id) }

// LeasesSince returns the leases that have changed since the set had a number of
// changes, nil for one that has ended, and the number that it has now. It is not ok
// when it no longer knows: then Leases does. Nobody may change the leases.
func (s *Store) LeasesSince(since uint64) (changed map[int64]*kvv1.Lease, now uint64, ok bool) {
	l := s.leases
	l.mu.RLock()
	defer l.mu.RUnlock()
	if since < l.replaced || since > l.changes || l.changes-since > recentLeases {
		return nil, l.changes, false
	}
	changed = make(map[int64]*kvv1.Lease, l.changes-since)
	for n := since + 1; n <= l.changes; n++ {
		id := l.recent[n%recentLeases]
		changed[id] = l.granted[id]
	}
	return changed, l.changes, true
}

// LeasesChanged returns a channel that is closed when the set is another one than
// it was at this number of changes.
func (s *Store) LeasesChanged(since uint64) <-chan struct{} {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if s.leases.changes != since {
		changed := make(chan struct{})
		close(changed)
		return changed
	}
	if s.leases.changed == nil {
		s.leases.changed = make(chan struct{})
	}
	return s.leases.changed
}

// LeaseChanges returns the number that Leases returns, at no cost.
func (s *Store) LeaseChanges() uint64 {
	s.leases.mu.RLock()
	defer s.leases.mu.RUnlock()
	return s.leases.changes
}

// LeaseKeys returns the keys attached to a lease, in order, at most limit (0:
// all). It fails with LEASE_NOT_FOUND.
func (s *Store) LeaseKeys(id int64, limit int) (keys [][]byte, err error) {
	if !s.leases.has(id) {
		return nil, refusal.LeaseNotFound(id)
	}
	v, err := s.view(context.Background())
	if err != nil {
		return nil, err
	}
	defer v.close()
	defer s.guard(&err)
	return v.attached(id, v.revision, limit)
}

// attached returns the keys that have a lease at a revision, in order, at most limit
// (0: all).
func (v *view) attached(id, revision int64, limit int) (keys [][]byte, err error) {
	for key, err := range v.leaseKeys(id) {
		if err != nil {
			return nil, err
		}
		if limit > 0 && len(keys) == limit {
			break
		}
		has, err := v.hasLease(key, id, revision)
		if err != nil {
			return nil, err
		}
		if has {
			keys = append(keys, bytes.Clone(key))
		}
	}
	return keys, nil
}

// hasLease says whether a key has a lease at a revision.
func (v *view) hasLease(key []byte, id, revision int64) (bool, error) {
	ver, found, err := v.get(key, revision)
	return found && ver.lease == id, err
}

const leaseIDBytes = 8

func leaseID(id int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }

// leaseKeys gives the keys that may be attached to a lease, in order: the disk may still
// list some that are not, never too few. A key is good until the next one. However many
// there are, only those that were changed lately are in memory.
func (v *view) leaseKeys(id int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if _, err := v.disk(); err != nil {
			yield(nil, err)
			return
		}
		changed := map[string]bool{}
		for _, t := range slices.Backward(v.tables) {
			t.mu.RLock()
			maps.Copy(changed, t.leaseKeys[id])
			t.mu.RUnlock()
		}
		var added []string
		for key, attached := range changed {
			if attached {
				added = append(added, key)
			}
		}
		slices.Sort(added)
		name := leaseID(id)
		cursor := v.tx.Bucket(bucketLeaseKeys).Cursor()
		for key, _ := cursor.Seek(name); bytes.HasPrefix(key, name); key, _ = cursor.Next() {
			onDisk := key[len(name):]
			for len(added) > 0 && added[0] < string(onDisk) {
				if !yield([]byte(added[0]), nil) {
					return
				}
				added = added[1:]
			}
			if _, known := changed[string(onDisk)]; !known && !yield(onDisk, nil) {
				return
			}
		}
		for _, key := range added {
			if !yield([]byte(key), nil) {
				return
			}
		}
	}
}

func (a *applier) moveLease(key []byte, from, to int64) {
	if from == to {
		return
	}
	if from != 0 {
		a.table.setLeaseKey(from, key, false)
	}
	if to != 0 {
		a.table.setLeaseKey(to, key, true)
	}
	a.store.rights.leases.moved(a.store.Access(), key, from, to)
}

func (a *applier) grant(req *kvv1.GrantRequest) (*kvv1.GrantResponse, error) {
	if req.GetId() <= 0 || req.TtlSeconds <= 0 {
		return nil, errInvalid("ttl_seconds", "a lease needs an id and a time to live above 0, not %d and %d", req.GetId(), req.GetTtlSeconds())
	}
	if a.store.leases.has(req.Id) {
		return nil, &refusal.Error{
			Reason:  kvv1.ErrorReason_ERROR_REASON_LEASE_EXISTS,
			Message: "a lease with this id exists already",
		}
	}
	a.setLease(req.Id, &kvv1.Lease{Id: req.Id, TtlSeconds: req.TtlSeconds, GrantedIndex: a.index})
	return &kvv1.GrantResponse{Header: a.header(), Id: req.Id, TtlSeconds: req.TtlSeconds}, nil
}

// setLease is the one place where leases change; nil ends one.
func (a *applier) setLease(id int64, lease *kvv1.Lease) {
	a.store.leases.set(id, lease)
	a.store.rights.leases.forget(id)
	a.table.leases[id] = lease
}

// revoke ends a lease and deletes its keys, at one revision. One that was granted
// under the same id after the caller decided is another lease.
func (a *applier) revoke(req *kvv1.RevokeRequest) (*kvv1.RevokeResponse, error) {
	lease := a.store.leases.get(req.GetId())
	if lease == nil || (req.GrantedIndex != 0 && lease.GrantedIndex != req.GrantedIndex) {
		return nil, refusal.LeaseNotFound(req.GetId())
	}
	var keys [][]byte
	for key, err := range a.view.leaseKeys(req.Id) {
		if err != nil {
			return nil, err
		}
		keys = append(keys, bytes.Clone(key))
	}
	resp := &kvv1.RevokeResponse{}
	for _, key := range keys {
		ver, found, err := a.view.get(key, a.st.Revision)
		if err != nil {
			return nil, err
		}
		if found && ver.lease == req.Id {
			if err := a.remove(key, &ver, a.st.Revision+1); err != nil {
				return nil, err
			}
			resp.Deleted++
		}
	}
	a.setLease(req.Id, nil)
	a.commit()
	resp.Header = a.header()
	return resp, nil
}

// flushLeases writes what a table knows of leases.
func flushLeases(tx *bbolt.Tx, t *table) error {
	bucket := tx.Bucket(bucketLeases)
	for _, id := range sortedKeys(t.leases) {
		key, lease := leaseID(id), t.leases[id]
		if lease == nil {
			if err := endLease(tx, id); err != nil {
				return err
			}
			continue
		}
		record := binary.AppendUvarint(make([]byte, checksumBytes), uint64(lease.TtlSeconds))
		record = binary.AppendUvarint(record, lease.GrantedIndex)
		if err := bucket.Put(key, seal(key, record)); err != nil {
			return err
		}
	}
	bucket = tx.Bucket(bucketLeaseKeys)
	for _, id := range sortedKeys(t.leaseKeys) {
		if lease, ok := t.leases[id]; ok && lease == nil {
			continue // Ended: its keys have just been removed.
		}
		for _, attached := range sortedKeys(t.leaseKeys[id]) {
			key := append(leaseID(id), attached...)
			var err error
			if t.leaseKeys[id][attached] {
				err = bucket.Put(key, seal(key, make([]byte, checksumBytes)))
			} else {
				err = bucket.Delete(key)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func endLease(tx *bbolt.Tx, id int64) error {
	name := leaseID(id)
	if err := tx.Bucket(bucketLeases).Delete(name); err != nil {
		return err
	}
	bucket := tx.Bucket(bucketLeaseKeys)
	var keys [][]byte
	cursor := bucket.Cursor()
	for key, _ := cursor.Seek(name); bytes.HasPrefix(key, name); key, _ = cursor.Next() {
		keys = append(keys, bytes.Clone(key))
	}
	for _, key := range keys {
		if err := bucket.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

func loadLeases(tx *bbolt.Tx) (map[int64]*kvv1.Lease, error) {
	granted := map[int64]*kvv1.Lease{}
	err := tx.Bucket(bucketLeases).ForEach(func(key, record []byte) error {
		payload, err := unseal(key, record)
		if err != nil {
			return err
		}
		r := reader{b: payload}
		lease := &kvv1.Lease{TtlSeconds: r.int()}
		if len(r.b) > 0 { // Earlier versions did not note where it was granted.
			lease.GrantedIndex = r.uint()
		}
		if len(key) != 8 || r.bad || lease.TtlSeconds == 0 {
			return corrupt("lease record under key %.64x", key)
		}
		lease.Id = int64(binary.BigEndian.Uint64(key))
		granted[lease.Id] = lease
		return nil
	})
	return granted, err
}
