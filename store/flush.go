package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
)

// The sizes of steps and blocks are variables for the tests of this package,
// which make them small, so that every boundary is crossed all the time.
var (
	// flushStepBytes is how much of the log one bbolt transaction writes: small,
	// so that no step holds a processor for long.
	flushStepBytes = 1 << 20
	// indexStepKeys and requestStep are how many keys and how many requests one
	// step writes.
	indexStepKeys = 8192
	requestStep   = 8192
)

const (
	// flushAhead is how much faster than the active table fills the frozen one
	// is flushed: fast enough to be done in time, no faster, so that the work is
	// spread evenly and not every replica's flush comes as one burst.
	flushAhead = 2.0
	// flushPause and flushMaxPauses bound the wait between two steps.
	flushPause     = 2 * time.Millisecond
	flushMaxPauses = 25
)

// flusher is the only writer of the file: it moves frozen tables into it, and
// removes what compaction has made unreadable.
type flusher struct {
	store *Store
	wake  chan struct{}

	// Under applier.mu: Restore ends the goroutine and starts another.
	cancel   context.CancelFunc
	done     chan struct{}
	panicked bool // Written before done is closed.

	flushed signal // Broadcast after each flush and scrub, and when the flusher ends.
	urgent  atomic.Int32

	mu       sync.Mutex
	durable  state
	scrubbed place // Where the next scrub begins.
}

func newFlusher(s *Store) *flusher {
	return &flusher{store: s, wake: make(chan struct{}, 1)}
}

func (f *flusher) reset(st state, scrubbed place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.durable, f.scrubbed = st, scrubbed
}

func (f *flusher) durableState() state {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.durable
}

func (f *flusher) start() {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.done = cancel, make(chan struct{})
	go f.run(ctx, f.done)
	f.poke()
}

// stop ends the flusher after its current step.
func (f *flusher) stop() {
	f.cancel()
	<-f.done
}

func (f *flusher) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *flusher) run(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	defer f.flushed.broadcast()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		err := careful(func() error {
			if err := f.flush(ctx); err != nil {
				return err
			}
			return f.scrub(ctx)
		})
		if err != nil {
			f.panicked = errors.Is(err, errPanicked)
			if ctx.Err() == nil || f.panicked {
				f.store.fail(fmt.Errorf("store: flush to %s: %w", f.store.path(), err))
			}
			return
		}
	}
}

// Flushing says whether a table is on its way into the file: under load, nearly always.
func (s *Store) Flushing() bool { return s.tables.Load().frozen != nil }

// Flush returns when all entries up to index are in the file. It fails when the
// disk has failed, or with the context's error.
func (s *Store) Flush(ctx context.Context, index uint64) error {
	s.flusher.urgent.Add(1)
	defer s.flusher.urgent.Add(-1)
	for {
		flushed := s.flusher.flushed.wait()
		if s.flusher.durableState().Index >= index {
			return nil
		}
		done, err := s.freezeForFlush()
		if err != nil {
			return err
		}
		select {
		case <-flushed:
		case <-done:
			if s.flusher.hasEnded(done) && s.flusher.durableState().Index < index {
				return fmt.Errorf("store: the flush has ended: %w", ErrClosed)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// freezeForFlush makes sure that something is being flushed, and returns what is
// closed when the flusher ends.
func (s *Store) freezeForFlush() (done <-chan struct{}, err error) {
	a := s.applier
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken {
		// The table has a part of an entry, which the replay would apply again.
		return nil, fmt.Errorf("store: an entry was applied in part: %w", ErrClosed)
	}
	if s.tables.Load().frozen == nil && a.st.Index > s.flusher.durableState().Index {
		a.freezeTable()
	}
	return s.flusher.done, nil
}

// hasEnded is false if Restore has only replaced the goroutine by another one.
func (f *flusher) hasEnded(done <-chan struct{}) bool {
	f.store.applier.mu.Lock()
	defer f.store.applier.mu.Unlock()
	return f.done == done
}

// freezeTable hands the active table to the flusher. No other may be frozen.
func (a *applier) freezeTable() {
	frozen := a.table
	frozen.state = a.st
	frozen.state.Tenants = a.store.rights.usages.copied()
	a.table = newTable(frozen.kv.nextPrefix(), a.st)
	a.freeze = false
	a.store.tables.Store(&tableSet{active: a.table, frozen: frozen})
	a.store.flusher.poke()
}

// firstTableFraction: the first table after the start is small, because it has
// no keys to learn a prefix for its hints from, and is slow.
const firstTableFraction = 16

// room makes sure that the active table has room. It waits for the flusher only
// when two tables are full.
func (a *applier) room() error {
	f := a.store.flusher
	limit := a.store.setup.tableBytes
	if a.table.kv.prefix == nil {
		limit /= firstTableFraction
	}
	for a.table.size() >= limit {
		flushed := f.flushed.wait()
		if a.store.tables.Load().frozen == nil {
			a.freezeTable()
			return nil
		}
		f.urgent.Add(1)
		select {
		case <-flushed:
		case <-f.done:
			f.urgent.Add(-1)
			return ErrClosed
		}
		f.urgent.Add(-1)
	}
	return nil
}

// flush moves the frozen table into the file, step by step. The last step writes the
// table's state; only then does what the earlier steps wrote count.
func (f *flusher) flush(ctx context.Context) error {
	tables := f.store.tables.Load()
	frozen := tables.frozen
	if frozen == nil {
		return nil
	}
	before, after := f.durableState(), frozen.state
	steps := &flushSteps{f: f, table: frozen, total: max(1, frozen.kv.size.Load())}
	if err := steps.log(ctx); err != nil {
		return err
	}
	if err := steps.index(ctx); err != nil {
		return err
	}
	if err := steps.requests(ctx); err != nil {
		return err
	}
	err := f.update(func(tx *bbolt.Tx) error {
		if err := errors.Join(flushLeases(tx, frozen), flushAccess(tx, frozen)); err != nil {
			return err
		}
		if err := forgetRequests(tx, before.Requests.oldest(), frozen.state.Requests.oldest()); err != nil {
			return err
		}
		now, _, err := loadState(tx)
		if err != nil {
			return err
		}
		after.Format = max(after.Format, now.Format) // See raiseFormat.
		return tx.Bucket(bucketMeta).Put(stateKey, after.encode())
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.durable = after
	f.mu.Unlock()
	// While a table is frozen only this goroutine changes the set.
	f.store.tables.Store(&tableSet{active: f.store.tables.Load().active})
	f.flushed.broadcast()
	return nil
}

// update runs a transaction that changes the file.
func (f *flusher) update(change func(*bbolt.Tx) error) error {
	number := 0
	err := f.store.database.db.Update(func(tx *bbolt.Tx) error {
		number = tx.ID()
		return change(tx)
	})
	if err == nil && f.store.setup.committed != nil {
		f.store.setup.committed(f.store.path(), number)
	}
	return err
}

// flushSteps writes one table.
type flushSteps struct {
	f       *flusher
	table   *table
	total   int64
	written int64
}

// pace waits until the flush is no longer ahead of the active table.
func (s *flushSteps) pace(ctx context.Context) error {
	for range flushMaxPauses {
		filled := float64(s.f.store.tables.Load().active.size()) / float64(s.f.store.setup.tableBytes)
		if s.f.urgent.Load() > 0 || float64(s.written)/float64(s.total) <= flushAhead*filled {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(flushPause):
			continue
		}
		break
	}
	return ctx.Err()
}

// logFill: the log grows at its end only, so its pages are left nearly full.
const logFill = 0.95

// log writes every version. It comes before the index, which names places in it.
func (s *flushSteps) log(ctx context.Context) error {
	entry, part := 0, 0
	for entry < len(s.table.log) {
		err := s.f.update(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket(bucketLog)
			bucket.FillPercent = logFill
			for size := 0; entry < len(s.table.log) && size < flushStepBytes; {
				changes := s.table.log[entry].changes
				change := changes[part]
				if err := bucket.Put(change.place.logKey(), change.record); err != nil {
					return err
				}
				size += len(change.record)
				s.written += int64(len(change.record) + versionOverhead)
				if part++; part == len(changes) {
					entry, part = entry+1, 0
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := s.pace(ctx); err != nil {
			return err
		}
	}
	return nil
}

// indexFill leaves room for keys that come between those of a page.
const indexFill = 0.8

// index makes the table's newest version of each key the newest in the file.
func (s *flushSteps) index(ctx context.Context) error {
	// By what the file says already: whoever opens it after a crash goes by that.
	sized := s.f.durableState().Format >= tenantsFormat
	for n := s.table.sorted().head.next(); n != nil; {
		err := s.f.update(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket(bucketKeys)
			bucket.FillPercent = indexFill
			for left := indexStepKeys; n != nil && left > 0; n = n.next() {
				newest, err := n.newest.Load().read()
				if err != nil {
					return err
				}
				if err := bucket.Put(n.key, indexRecord(n.key, &newest, sized)); err != nil {
					return err
				}
				left--
				s.written += nodeOverhead
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := s.pace(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *flushSteps) requests(ctx context.Context) error {
	if len(s.table.requests) == 0 {
		return nil
	}
	keys := make([]requestKey, 0, len(s.table.requests))
	for key := range s.table.requests {
		keys = append(keys, key)
	}
	sortRequestKeys(keys)
	for len(keys) > 0 {
		step := keys[:min(len(keys), requestStep)]
		keys = keys[len(step):]
		err := s.f.update(func(tx *bbolt.Tx) error {
			return putRequests(tx.Bucket(bucketRequests), step, s.table.requests)
		})
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}
