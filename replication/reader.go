package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
)

// reader makes reads of this pod's copy as fresh as they ask for.
type reader struct {
	replica *replica
	conn    func(pod string) (*grpc.ClientConn, error)
	lease   time.Duration
	differs func(pod, why string) bool // see Options.Differs
	// confirms gets read indexes on the master, reads elsewhere.
	confirms, reads *readIndexer
}

func newReader(r *replica, conn func(pod string) (*grpc.ClientConn, error), o *Options, got prometheus.Counter) *reader {
	rd := &reader{replica: r, conn: conn, lease: o.Timing.Lease, differs: o.Differs}
	rd.confirms = newReadIndexer(got, rd.confirmIndex)
	rd.reads = newReadIndexer(got, rd.askIndex)
	return rd
}

// run gets read indexes until ctx ends.
func (r *reader) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { r.confirms.run(ctx) })
	wg.Go(func() { r.reads.run(ctx) })
	wg.Wait()
}

// linearizable returns when this pod's copy shows every write that was
// acknowledged before the call, see Node.LinearizableRead.
func (r *reader) linearizable(ctx context.Context) error {
	g, err := r.readGroup(ctx)
	if err != nil {
		return err
	}
	if err := r.replica.applied.wait(ctx, g.index); err != nil {
		return err
	}
	return r.agrees(g)
}

// bounded returns when this pod's copy is at most maxStaleness old.
func (r *reader) bounded(ctx context.Context, maxStaleness time.Duration) error {
	for _, source := range []*readIndexer{r.reads, r.confirms} {
		if g, ok := source.recent(maxStaleness); ok && r.replica.applied.value.Load() >= g.index && r.agrees(g) == nil {
			return nil
		}
	}
	return r.linearizable(ctx)
}

// askIndex gets a read index from the master, another pod.
func (r *reader) askIndex(ctx context.Context) (readIndex, error) {
	v := r.replica.views.load()
	if v.leads || v.master == "" {
		return readIndex{}, ErrNoMaster
	}
	ctx, cancel := context.WithTimeout(ctx, r.replica.views.patience)
	defer cancel()
	defer cancelOnChange(ctx, v, cancel)()
	conn, err := r.conn(v.master.Pod())
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
func cancelOnChange(ctx context.Context, v *view, cancel func()) func() {
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
func (r *reader) confirmIndex(ctx context.Context) (readIndex, error) {
	v := r.replica.views.load()
	if !v.ready {
		return readIndex{}, ErrNoMaster
	}
	since := time.Now()
	index := r.replica.raft.CommitIndex()
	if !r.confirmedSince(v, since) {
		// Asks for an immediate round of heartbeats; its own answer is of no use.
		r.replica.raft.VerifyLeader()
	}
	// The voters may become fewer, and the last one has nobody to wake it.
	again := time.NewTicker(r.lease / 4)
	defer again.Stop()
	for !r.confirmedSince(v, since) {
		select {
		case <-r.replica.acks.changed:
		case <-again.C:
		case <-v.changed:
			return readIndex{}, ErrNoMaster
		case <-ctx.Done():
			return readIndex{}, ctx.Err()
		}
	}
	return readIndex{index: index}, nil
}

func (r *reader) confirmedSince(v *view, since time.Time) bool {
	if !r.replica.acks.confirmed(r.replica.self, voters(r.replica.configuration()), v.term, since) {
		return false
	}
	return r.replica.views.load() == v
}

// readGroup returns one with an index such that a copy that has applied it shows
// every write that was acknowledged before the call.
func (r *reader) readGroup(ctx context.Context) (*readGroup, error) {
	var w masterWait
	for {
		v := r.replica.views.load()
		source := r.reads
		if v.leads {
			source = r.confirms
		}
		g, err := source.get(ctx)
		if err == nil || !errors.Is(err, ErrNoMaster) {
			return g, err
		}
		if err := w.wait(ctx, r.replica.views, v); err != nil {
			return nil, err
		}
	}
}

// agrees compares, once for all readers of a group, what this pod and the master
// had: for them, before any of them is answered. This pod has applied the index,
// and so the entry of the master's mark.
// (TestAFollowerThatDiffersServesNoRead)
func (r *reader) agrees(g *readGroup) error {
	g.compare.Do(func() { g.differs = r.agree(g.master, g.mark) })
	return g.differs
}

// agree holds what this pod had after an entry to what another pod had. It
// returns ErrDiffers unless they are the same, or one is not known, or
// Options.Differs says that this pod may serve all the same.
func (r *reader) agree(pod string, theirs Mark) error {
	own := r.replica.trail.at(theirs.Index)
	if own.Index == 0 || own == theirs {
		return nil
	}
	err := fmt.Errorf("%w: after entry %d this pod had %s, %s had %s", ErrDiffers, own.Index, own, pod, theirs)
	if r.differs != nil && r.differs(pod, err.Error()) {
		return nil
	}
	return err
}

// confirmWithout returns nil when every voter but this pod and id has, from now
// on, confirmed that it follows this pod: they can commit without id.
func (r *reader) confirmWithout(ctx context.Context, id MemberID) error {
	v := r.replica.views.load()
	if !v.ready {
		return ErrNoMaster
	}
	since := time.Now()
	r.replica.raft.VerifyLeader() // for an immediate round of heartbeats
	again := time.NewTicker(r.lease / 8)
	defer again.Stop()
	for {
		silent := MemberID("")
		for _, other := range r.replica.otherVoters() {
			if other != id && !r.replica.acks.confirmed("", []MemberID{other}, v.term, since) {
				silent = other
			}
		}
		if silent == "" {
			return nil
		}
		select {
		case <-again.C:
		case <-v.changed:
			return ErrNoMaster
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer", silent)
		}
	}
}
