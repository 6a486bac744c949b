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
	fetch func(context.Context) (readIndex, error)
	meter *meter
	wake  chan struct{}
	ended chan struct{} // closed when run has returned

	mu   sync.Mutex // guards the fields below
	next *readGroup
	// last is the newest group with an index, and the moment that this is not
	// older than.
	last   *readGroup
	lastAt time.Time
}

// readIndex is an index, and what the master, another pod, had when it gave it.
type readIndex struct {
	index  uint64
	master string
	mark   Mark
}

// readGroup are the readers that share an index.
type readGroup struct {
	readIndex
	done    chan struct{}
	err     error
	compare sync.Once
	differs error // of the comparison
}

func newReadIndexer(m *meter, fetch func(context.Context) (readIndex, error)) *readIndexer {
	return &readIndexer{fetch: fetch, meter: m, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (r *readIndexer) get(ctx context.Context) (*readGroup, error) {
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
		return g, g.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-r.ended:
		return nil, ErrClosed
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
func (r *readIndexer) recent(d time.Duration) (*readGroup, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, !r.lastAt.IsZero() && time.Since(r.lastAt) < d
}

// askIndex gets a read index from the master, another pod.
func (e *engine) askIndex(ctx context.Context) (readIndex, error) {
	v := e.views.load()
	if v.leads || v.master == "" {
		return readIndex{}, ErrNoMaster
	}
	ctx, cancel := context.WithTimeout(ctx, patience*e.timing.Election)
	defer cancel()
	defer e.cancelOnChange(ctx, v, cancel)()
	conn, err := e.conn(v.master.Pod())
	if err != nil {
		return readIndex{}, err
	}
	answer, err := peerv1.NewPeerServiceClient(conn).ReadIndex(ctx, &peerv1.ReadIndexRequest{})
	if err != nil {
		return readIndex{}, fmt.Errorf("%w: read index from %s: %v", ErrNoMaster, v.master.Pod(), err)
	}
	return readIndex{answer.Index, v.master.Pod(), markOf(answer.GetApplied())}, nil
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
func (e *engine) confirmIndex(ctx context.Context) (readIndex, error) {
	v := e.views.load()
	if !v.ready {
		return readIndex{}, ErrNoMaster
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
			return readIndex{}, ErrNoMaster
		case <-ctx.Done():
			return readIndex{}, ctx.Err()
		}
	}
	return readIndex{index: index}, nil
}

func (e *engine) confirmedSince(v *view, since time.Time) bool {
	if !e.acks.confirmed(e.self, voters(e.raft.GetConfiguration().Configuration()), v.term, since) {
		return false
	}
	return e.views.load() == v
}

// readGroup returns one with an index such that a copy that has applied it shows
// every write that was acknowledged before the call.
func (e *engine) readGroup(ctx context.Context) (*readGroup, error) {
	var w masterWait
	for {
		v := e.views.load()
		source := e.reads
		if v.leads {
			source = e.confirms
		}
		g, err := source.get(ctx)
		if err == nil || !errors.Is(err, ErrNoMaster) {
			return g, err
		}
		if err := w.wait(ctx, e, v); err != nil {
			return nil, err
		}
	}
}

// agrees compares, once for all readers of a group, what this pod and the master
// had: for them, before any of them is answered. This pod has applied the index,
// and so the entry of the master's mark.
// (TestAFollowerThatDiffersServesNoRead)
func (e *engine) agrees(g *readGroup) error {
	g.compare.Do(func() { g.differs = e.agree(g.master, g.mark) })
	return g.differs
}

// LinearizableRead returns when this pod's copy shows every write that was
// acknowledged before the call, with ErrDiffers when this pod has applied
// something else than the master.
func (n *Node) LinearizableRead(ctx context.Context) error {
	e := n.engine.Load()
	if e == nil {
		return ErrNotReady
	}
	g, err := e.readGroup(ctx)
	if err != nil {
		return err
	}
	if err := e.applied.wait(ctx, g.index); err != nil {
		return err
	}
	return e.agrees(g)
}

// BoundedRead returns when this pod's copy is at most maxStaleness old; with
// errors as LinearizableRead.
func (n *Node) BoundedRead(ctx context.Context, maxStaleness time.Duration) error {
	e := n.engine.Load()
	if e == nil {
		return ErrNotReady
	}
	for _, source := range []*readIndexer{e.reads, e.confirms} {
		if g, ok := source.recent(maxStaleness); ok && e.applied.value.Load() >= g.index && e.agrees(g) == nil {
			return nil
		}
	}
	return n.LinearizableRead(ctx)
}
