package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
)

// readIndexer gets read indexes, each for all who asked while the one before
// was got: a reader that comes too late for one must not use it, for it may
// miss a write that was acknowledged before the reader came.
// (TestAReaderUsesNoEarlierIndex)
type readIndexer struct {
	fetch func(context.Context) (uint64, error)
	meter *meter
	wake  chan struct{}
	ended chan struct{} // closed when run has returned

	mu   sync.Mutex // guards the fields below
	next *readGroup
	// last is the newest index, and the moment that it is not older than.
	last   uint64
	lastAt time.Time
}

type readGroup struct {
	done  chan struct{}
	index uint64
	err   error
}

func newReadIndexer(m *meter, fetch func(context.Context) (uint64, error)) *readIndexer {
	return &readIndexer{fetch: fetch, meter: m, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (r *readIndexer) get(ctx context.Context) (uint64, error) {
	r.mu.Lock()
	g := r.next
	if g == nil {
		g = &readGroup{done: make(chan struct{})}
		r.next = g
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	r.mu.Unlock()
	select {
	case <-g.done:
		return g.index, g.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-r.ended:
		return 0, ErrClosed
	}
}

func (r *readIndexer) run(ctx context.Context) {
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
		r.meter.readIndexes.Inc()
		g.index, g.err = r.fetch(ctx)
		if g.err == nil {
			r.mu.Lock()
			r.last, r.lastAt = g.index, at
			r.mu.Unlock()
		}
		close(g.done)
	}
}

// recent is an index that was got less than d ago.
func (r *readIndexer) recent(d time.Duration) (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, !r.lastAt.IsZero() && time.Since(r.lastAt) < d
}

// askIndex gets a read index from the master, another pod.
func (e *engine) askIndex(ctx context.Context) (uint64, error) {
	v := e.views.load()
	if v.leads || v.master == "" {
		return 0, ErrNoMaster
	}
	ctx, cancel := context.WithTimeout(ctx, patience*e.timing.Election)
	defer cancel()
	defer e.cancelOnChange(ctx, v, cancel)()
	conn, err := e.conn(v.master.Pod())
	if err != nil {
		return 0, err
	}
	answer, err := peerv1.NewPeerServiceClient(conn).ReadIndex(ctx, &peerv1.ReadIndexRequest{})
	if err != nil {
		return 0, fmt.Errorf("%w: read index from %s: %v", ErrNoMaster, v.master.Pod(), err)
	}
	return answer.Index, nil
}

// cancelOnChange calls cancel when the view changes; the result ends the wait.
func (e *engine) cancelOnChange(ctx context.Context, v *view, cancel func()) func() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-v.changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return func() { cancel(); <-ended }
}

// confirmIndex is the read index of the master: its commit index, once a
// majority has answered, to messages sent after it was read, that they know no
// later term. (Raft thesis, 6.4; see doc.go for why not VerifyLeader alone.)
//
// A master is ready with an entry of its own term committed: before, its commit
// index may be behind what the one before it acknowledged (TestNotReadyMasterGivesNoIndex).
// Answers count by the term and by when the message was sent
// (TestOldAnswersConfirmNothing, TestCutOffMasterServesNothing), and by who votes
// now (TestReadWhileTheOtherVoterIsRemoved). Another pod that asks, in askIndex,
// begins before the master does.
func (e *engine) confirmIndex(ctx context.Context) (uint64, error) {
	v := e.views.load()
	if !v.ready {
		return 0, ErrNoMaster
	}
	since := time.Now()
	index := e.raft.CommitIndex()
	if !e.confirmedSince(v, since) {
		// Asks for an immediate round of heartbeats; its own answer is of no use.
		e.raft.VerifyLeader()
	}
	// The voters may become fewer, and the last one has nobody to wake it.
	again := time.NewTicker(e.timing.Lease / 4)
	defer again.Stop()
	for !e.confirmedSince(v, since) {
		select {
		case <-e.acks.changed:
		case <-again.C:
		case <-v.changed:
			return 0, ErrNoMaster
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return index, nil
}

func (e *engine) confirmedSince(v *view, since time.Time) bool {
	if !e.acks.confirmed(e.self, voters(e.raft.GetConfiguration().Configuration()), v.term, since) {
		return false
	}
	return e.views.load() == v
}

// ReadIndex returns an index such that a copy that has applied it shows every
// write that was acknowledged before the call.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	e := n.engine.Load()
	if e == nil {
		return 0, ErrNotReady
	}
	var w masterWait
	for {
		v := e.views.load()
		source := e.reads
		if v.leads {
			source = e.confirms
		}
		index, err := source.get(ctx)
		if err == nil || !errors.Is(err, ErrNoMaster) {
			return index, err
		}
		if err := w.wait(ctx, e, v); err != nil {
			return 0, err
		}
	}
}

// WaitApplied returns when this pod has applied index.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	e := n.engine.Load()
	if e == nil {
		return ErrNotReady
	}
	return e.applied.wait(ctx, index)
}

// LinearizableRead returns when this pod's copy shows every write that was
// acknowledged before the call.
func (n *Node) LinearizableRead(ctx context.Context) error {
	index, err := n.ReadIndex(ctx)
	if err != nil {
		return err
	}
	return n.WaitApplied(ctx, index)
}

// BoundedRead returns when this pod's copy is at most maxStaleness old.
func (n *Node) BoundedRead(ctx context.Context, maxStaleness time.Duration) error {
	e := n.engine.Load()
	if e == nil {
		return ErrNotReady
	}
	for _, source := range []*readIndexer{e.reads, e.confirms} {
		if index, ok := source.recent(maxStaleness); ok && e.applied.value.Load() >= index {
			return nil
		}
	}
	return n.LinearizableRead(ctx)
}
