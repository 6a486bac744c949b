package clienttest

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// term is the term of every entry.
const term = 2

// database is the store that all pods answer from, and the clock of its leases.
type database struct {
	store *store.Store
	dir   string
	// enabled says that access control is on; nobody is refused anything.
	enabled atomic.Bool

	mu        sync.Mutex // guards what follows, and orders what is applied
	index     uint64
	lastLease int64
	ends      map[uint64]time.Time // by the index that granted the lease
}

func openDatabase() (*database, error) {
	dir, err := os.MkdirTemp("", "clienttest")
	if err != nil {
		return nil, err
	}
	st, err := store.Open(store.Options{Dir: dir})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return &database{store: st, dir: dir, ends: map[uint64]time.Time{}}, nil
}

// close removes the files as well, so an error in writing them matters to nobody.
func (d *database) close() {
	_ = d.store.Close()
	_ = os.RemoveAll(d.dir)
}

// apply applies a command as the log's next entry; a refusal is an error.
func (d *database) apply(command *kvv1.Command) (*kvv1.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.index++
	result := d.store.Apply(d.index, term, []*kvv1.Command{command})[0]
	if refused := refusal.In(result); refused != nil {
		return nil, refused
	}
	return result, nil
}

// lease returns nil when there is no such lease.
func (d *database) lease(id int64) *kvv1.Lease {
	leases, _ := d.store.Leases()
	i := slices.IndexFunc(leases, func(l *kvv1.Lease) bool { return l.GetId() == id })
	if i < 0 {
		return nil
	}
	return leases[i]
}

// nextLease returns an id for a lease.
func (d *database) nextLease() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lastLease++
	return d.lastLease
}

// left is how long a lease lives if it is not kept alive. Its time begins with the
// first look.
func (d *database) left(l *kvv1.Lease) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.ends[l.GetGrantedIndex()]; !ok {
		d.renew(l)
	}
	return time.Until(d.ends[l.GetGrantedIndex()])
}

func (d *database) keepAlive(l *kvv1.Lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.renew(l)
}

// renew gives a lease its whole time from now on; d.mu is held.
func (d *database) renew(l *kvv1.Lease) {
	d.ends[l.GetGrantedIndex()] = time.Now().Add(time.Duration(l.GetTtlSeconds()) * time.Second)
}

// endLeases revokes what was not kept alive in time.
func (d *database) endLeases() {
	leases, _ := d.store.Leases()
	for _, l := range leases {
		if d.left(l) < 0 {
			// Refused only when somebody else was faster.
			_, _ = d.apply(&kvv1.Command{Command: &kvv1.Command_Revoke{
				Revoke: &kvv1.RevokeRequest{Id: l.GetId(), GrantedIndex: l.GetGrantedIndex()},
			}})
		}
	}
}
