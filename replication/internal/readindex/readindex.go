package readindex

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/batondb/baton/replication"
)

// indexer gets read indexes, each for all who asked while the one before
// was got: a reader that comes too late for one must not use it, for it may
// miss a write that was acknowledged before the reader came.
// (TestAReaderUsesNoEarlierIndex)
type indexer struct {
	fetch func(context.Context) (readIndex, error)
	got   prometheus.Counter
	wake  chan struct{}
	ended chan struct{} // closed when run has returned

	mu   sync.Mutex // guards the fields below
	next *group
	// last is the newest group with an index, and the moment that this is not
	// older than.
	last   *group
	lastAt time.Time
}

// readIndex is an index, and what the master, another pod, had when it gave it.
type readIndex struct {
	index  uint64
	master string
	mark   replication.Mark
}

// group are the readers that share an index.
type group struct {
	readIndex readIndex
	done      chan struct{}
	err       error
	compare   sync.Once
	differs   error // of the comparison
}

func newIndexer(got prometheus.Counter, fetch func(context.Context) (readIndex, error)) *indexer {
	return &indexer{fetch: fetch, got: got, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (r *indexer) get(ctx context.Context) (*group, error) {
	r.mu.Lock()
	g := r.next
	if g == nil {
		g = &group{done: make(chan struct{})}
		r.next = g
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	r.mu.Unlock()
	select {
	case <-g.done:
		return g, g.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-r.ended:
		return nil, replication.ErrClosed
	}
}

func (r *indexer) run(ctx context.Context) {
	defer close(r.ended)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		g := r.next
		r.next = nil
		r.mu.Unlock()
		at := time.Now()
		r.got.Inc()
		g.readIndex, g.err = r.fetch(ctx)
		if g.err == nil {
			r.mu.Lock()
			r.last, r.lastAt = g, at
			r.mu.Unlock()
		}
		close(g.done)
	}
}

// recent is a group whose index was got less than d ago.
func (r *indexer) recent(d time.Duration) (*group, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, !r.lastAt.IsZero() && time.Since(r.lastAt) < d
}
