package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/turn"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// DefaultTableBytes is the memory a table takes before it is flushed. A larger
// one gathers more versions for each page of the file that a flush touches; two
// tables are held at most, and twice the size is replayed after a crash.
const DefaultTableBytes = 64 << 20

// Options say where a store is and how it behaves.
type Options struct {
	// Dir holds the database; it must exist.
	Dir string
	// Logger gets a line for each rare event; nil: none.
	Logger *slog.Logger
	// Registerer gets the metrics; nil: none.
	Registerer prometheus.Registerer
	// TableBytes is the memory of a table before it is flushed; 0 means
	// DefaultTableBytes. A small one costs speed, a large one memory.
	TableBytes int
	// Committed is called after each transaction that changes the file, with its
	// number, before anything relies on it: a test may take the power away meanwhile.
	// nil: nothing is called.
	Committed func(path string, transaction int)
}

// Store is the database. Apply and ApplyConfiguration are for one goroutine,
// all other methods for any.
type Store struct {
	setup    setup
	database database

	visible visible
	tables  atomic.Pointer[tableSet]
	applier *applier
	flusher *flusher
	leases  *leaseSet
	rights  *rights
	watches *watches
	streams snapshots
	revised signal // Broadcast for every new revision.

	failing atomic.Bool
	failed  chan error
}

// setup is what the caller of Open has set.
type setup struct {
	dir        string
	logger     *slog.Logger
	tableBytes int64
	committed  func(path string, transaction int)
}

// database is the open file.
type database struct {
	// swap is held for reading by every view, and for writing to put another
	// file in the place of db. It comes after applier.mu.
	swap   sync.RWMutex
	db     *bbolt.DB
	closed bool
}

// visible is what readers may see of the applied state.
type visible struct {
	revision  atomic.Int64
	compacted atomic.Int64
	scrubbing atomic.Int64 // Versions that only older revisions see may be gone.
	applied   atomic.Uint64
}

// Open opens the database in o.Dir, or creates an empty one. It fails when
// another process has it open, with ErrCorrupt when it is damaged, and changes
// nothing then.
func Open(o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.TableBytes == 0 {
		o.TableBytes = DefaultTableBytes
	}
	s := &Store{
		setup:   setup{dir: o.Dir, logger: o.Logger, tableBytes: int64(o.TableBytes), committed: o.Committed},
		leases:  &leaseSet{},
		rights:  &rights{},
		watches: newWatches(),
		failed:  make(chan error, 1),
	}
	s.applier = &applier{store: s, mu: turn.New(), digest: xxhash.New()}
	s.flusher = newFlusher(s)
	if _, err := os.Stat(s.path()); errors.Is(err, os.ErrNotExist) {
		if err := create(o.Dir); err != nil {
			return nil, err
		}
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if o.Registerer != nil {
		if err := s.register(o.Registerer); err != nil {
			return nil, errors.Join(err, s.database.db.Close())
		}
	}
	s.watches.notified = s.visible.revision.Load()
	s.flusher.start()
	return s, nil
}

func (s *Store) path() string { return filepath.Join(s.setup.dir, FileName) }

// load opens the file and takes over what it holds.
func (s *Store) load() error {
	db, err := openFile(s.path(), false)
	if err != nil {
		return err
	}
	var st state
	var scrubbed place
	var leases map[int64]*kvv1.Lease
	var allowed *access.State
	err = careful(func() error {
		return db.View(func(tx *bbolt.Tx) (err error) {
			if err := checkRoot(tx); err != nil {
				return err
			}
			if st, scrubbed, err = loadState(tx); err != nil {
				return err
			}
			if leases, err = loadLeases(tx); err != nil {
				return err
			}
			allowed, err = loadAccess(tx, &st)
			return err
		})
	})
	if err != nil {
		return errors.Join(fmt.Errorf("store: %s: %w", s.path(), err), db.Close())
	}
	s.database.db = db
	s.leases.replace(leases)
	s.rights.replace(allowed)
	s.rights.usages.replace(st.Tenants)
	st.Tenants = nil
	active := newTable(nil, st)
	s.applier.st, s.applier.table, s.applier.format = st, active, st.Format
	s.tables.Store(&tableSet{active: active})
	s.flusher.reset(st, scrubbed)
	s.visible.scrubbing.Store(st.Compacted)
	s.visible.compacted.Store(st.Compacted)
	s.visible.revision.Store(st.Revision)
	s.visible.applied.Store(st.Index)
	return nil
}

// Applied is the index of the last log entry whose effects are visible.
func (s *Store) Applied() uint64 { return s.visible.applied.Load() }

// Durable is the position that the file on disk has; entries after it must be
// applied again after a crash.
func (s *Store) Durable() replication.Position {
	st := s.flusher.durableState()
	return st.position()
}

// Status is how a store is.
type Status struct {
	Applied   uint64 // Index of the last entry applied.
	Durable   uint64 // Index of the last entry on the store's disk.
	Revision  int64
	Compacted int64 // The oldest revision that can be read.
	FileBytes int64
	FreeBytes int64 // Of FileBytes, those that hold nothing.
	Leases    int
	Watchers  int
}

// Status returns how the store is.
func (s *Store) Status() Status {
	durable := s.Durable().Index // First: it never passes Applied.
	status := Status{
		Applied:   s.visible.applied.Load(),
		Durable:   durable,
		Revision:  s.visible.revision.Load(),
		Compacted: s.visible.compacted.Load(),
		Watchers:  s.watches.count(),
	}
	s.leases.mu.RLock()
	status.Leases = len(s.leases.granted)
	s.leases.mu.RUnlock()
	if info, err := os.Stat(s.path()); err == nil {
		status.FileBytes = info.Size()
	}
	s.database.swap.RLock()
	defer s.database.swap.RUnlock()
	if !s.database.closed {
		stats := s.database.db.Stats()
		status.FreeBytes = int64(stats.FreePageN+stats.PendingPageN) * int64(s.database.db.Info().PageSize)
	}
	return status
}

// Revision is the newest one.
func (s *Store) Revision() int64 { return s.visible.revision.Load() }

// WaitRevision returns when the store has a revision, or with the context's error.
func (s *Store) WaitRevision(ctx context.Context, revision int64) error {
	for {
		changed := s.revised.wait()
		if s.visible.revision.Load() >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Hash returns the running hash of all that was applied up to a revision (0:
// the newest), the same on every replica. It fails with COMPACTED and
// FUTURE_REVISION.
func (s *Store) Hash(revision int64) (_ int64, hash uint64, err error) {
	v, err := s.view(context.Background())
	if err != nil {
		return 0, 0, err
	}
	defer v.close()
	defer s.guard(&err)
	if err := v.at(revision); err != nil {
		return 0, 0, err
	}
	if v.reading == firstRevision {
		return firstRevision, 0, nil
	}
	hash, err = v.hash(v.reading)
	return v.reading, hash, err
}

// Digest returns the newest revision, and its running hash together with the hash of
// users and roles, those after the entry that was applied last. It is for the goroutine that calls Apply: for another one
// the next entry may have begun.
func (s *Store) Digest() (revision int64, hash uint64) {
	a := s.applier
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.st.Revision, a.st.Hash ^ a.st.AccessHash
}

// Failed yields one error when the disk has failed or is corrupt: what was
// applied may never become durable, and the process must end.
func (s *Store) Failed() <-chan error { return s.failed }

func (s *Store) fail(err error) {
	if s.failing.CompareAndSwap(false, true) {
		s.failed <- err
	}
}

// guard turns a panic or fault of bbolt over a damaged file into an error, and
// reports damage: use it deferred, after the view was taken, which makes faults
// of this goroutine panics.
func (s *Store) guard(err *error) {
	if r := recover(); r != nil {
		*err = corrupt("%s: %v\n%s", s.path(), r, debug.Stack())
	}
	if errors.Is(*err, ErrCorrupt) {
		s.fail(*err)
	}
}

// Close flushes what is in memory and closes the file. Watchers and snapshots
// end with ErrClosed.
func (s *Store) Close() error {
	flushed := s.Flush(context.Background(), s.Applied())
	s.applier.mu.Lock()
	defer s.applier.mu.Unlock()
	s.flusher.stop()
	s.watches.close(ErrClosed)
	s.database.swap.Lock()
	defer s.database.swap.Unlock()
	s.streams.close()
	if s.database.closed {
		return nil
	}
	s.database.closed = true
	return errors.Join(flushed, s.closeFile())
}

// closeFile is called when the flusher has ended.
func (s *Store) closeFile() error {
	if !s.flusher.panicked {
		return s.database.db.Close()
	}
	// bbolt may hold its lock of writers for ever.
	closed := make(chan error, 1)
	db := s.database.db
	go func() { closed <- db.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(time.Second):
		return fmt.Errorf("store: %s stays open until the process ends: %w", s.path(), errPanicked)
	}
}

// signal wakes all who wait, each time it is broadcast.
type signal struct {
	mu      sync.Mutex
	waiting chan struct{}
}

// wait returns a channel that the next broadcast closes.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		s.waiting = make(chan struct{})
	}
	return s.waiting
}

func (s *signal) broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting != nil {
		close(s.waiting)
		s.waiting = nil
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
