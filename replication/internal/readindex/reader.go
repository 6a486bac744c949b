package readindex

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/raftio"
)

// Reader makes reads of this pod's copy as fresh as they ask for.
type Reader struct {
	replica *raftio.Replica
	conn    func(pod string) (*grpc.ClientConn, error)
	lease   time.Duration
	differs func(pod, why string) bool // see Options.Differs
	// confirms gets read indexes on the master, reads elsewhere.
	confirms, reads *indexer
}

// NewReader makes a reader over r; got counts the read indexes.
func NewReader(r *raftio.Replica, conn func(pod string) (*grpc.ClientConn, error), o *replication.Options, got prometheus.Counter) *Reader {
	rd := &Reader{replica: r, conn: conn, lease: o.Timing.Lease, differs: o.Differs}
	rd.confirms = newIndexer(got, rd.confirmIndex)
	rd.reads = newIndexer(got, rd.askIndex)
	return rd
}

// Run gets read indexes until ctx ends.
func (r *Reader) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { r.confirms.run(ctx) })
	wg.Go(func() { r.reads.run(ctx) })
	wg.Wait()
}

// Confirm is a read index of the master, this pod: a quorum has confirmed, from
// now on, that it leads.
func (r *Reader) Confirm(ctx context.Context) (index uint64, err error) {
	g, err := r.confirms.get(ctx)
	if err != nil {
		return 0, err
	}
	return g.readIndex.index, nil
}

// Linearizable returns when this pod's copy shows every write that was
// acknowledged before the call, see Node.LinearizableRead.
func (r *Reader) Linearizable(ctx context.Context) error {
	g, err := r.group(ctx)
	if err != nil {
		return err
	}
	if err := r.replica.Applied.Wait(ctx, g.readIndex.index); err != nil {
		return err
	}
	return r.agrees(g)
}

// Bounded returns when this pod's copy is at most maxStaleness old.
func (r *Reader) Bounded(ctx context.Context, maxStaleness time.Duration) error {
	for _, source := range []*indexer{r.reads, r.confirms} {
		if g, ok := source.recent(maxStaleness); ok && r.replica.Applied.Value.Load() >= g.readIndex.index && r.agrees(g) == nil {
			return nil
		}
	}
	return r.Linearizable(ctx)
}

// askIndex gets a read index from the master, another pod.
func (r *Reader) askIndex(ctx context.Context) (readIndex, error) {
	v := r.replica.Views.Load()
	if v.Leads || v.Master == "" {
		return readIndex{}, replication.ErrNoMaster
	}
	ctx, cancel := context.WithTimeout(ctx, r.replica.Views.Patience)
	defer cancel()
	defer cancelOnChange(ctx, v, cancel)()
	conn, err := r.conn(v.Master.Pod())
	if err != nil {
		return readIndex{}, err
	}
	answer, err := peerv1.NewPeerServiceClient(conn).ReadIndex(ctx, &peerv1.ReadIndexRequest{})
	if err != nil {
		return readIndex{}, fmt.Errorf("%w: read index from %s: %v", replication.ErrNoMaster, v.Master.Pod(), err)
	}
	return readIndex{answer.Index, v.Master.Pod(), raftio.MarkOf(answer.GetApplied())}, nil
}

// cancelOnChange calls cancel when the view changes; the result ends the wait.
func cancelOnChange(ctx context.Context, v *raftio.View, cancel func()) func() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-v.Changed:
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
func (r *Reader) confirmIndex(ctx context.Context) (readIndex, error) {
	v := r.replica.Views.Load()
	if !v.Ready {
		return readIndex{}, replication.ErrNoMaster
	}
	since := time.Now()
	index := r.replica.Raft.CommitIndex()
	if !r.confirmedSince(v, since) {
		// Asks for an immediate round of heartbeats; its own answer is of no use.
		r.replica.VerifyLeader()
	}
	// The voters may become fewer, and the last one has nobody to wake it.
	again := time.NewTicker(r.lease / 4)
	defer again.Stop()
	for !r.confirmedSince(v, since) {
		select {
		case <-r.replica.Acks.Changed:
		case <-again.C:
		case <-v.Changed:
			return readIndex{}, replication.ErrNoMaster
		case <-ctx.Done():
			return readIndex{}, ctx.Err()
		}
	}
	return readIndex{index: index}, nil
}

func (r *Reader) confirmedSince(v *raftio.View, since time.Time) bool {
	if !r.replica.Acks.Confirmed(r.replica.Self, raftio.Voters(r.replica.Configuration()), v.Term, since) {
		return false
	}
	return r.replica.Views.Load() == v
}

// group returns one with an index such that a copy that has applied it shows
// every write that was acknowledged before the call.
func (r *Reader) group(ctx context.Context) (*group, error) {
	var w raftio.MasterWait
	for {
		v := r.replica.Views.Load()
		source := r.reads
		if v.Leads {
			source = r.confirms
		}
		g, err := source.get(ctx)
		if err == nil || !errors.Is(err, replication.ErrNoMaster) {
			return g, err
		}
		if err := w.Wait(ctx, r.replica.Views, v); err != nil {
			return nil, err
		}
	}
}

// agrees compares, once for all readers of a group, what this pod and the master
// had: for them, before any of them is answered. This pod has applied the index,
// and so the entry of the master's mark.
// (TestAFollowerThatDiffersServesNoRead)
func (r *Reader) agrees(g *group) error {
	g.compare.Do(func() { g.differs = r.Agree(g.readIndex.master, g.readIndex.mark) })
	return g.differs
}

// Agree holds what this pod had after an entry to what another pod had. It
// returns ErrDiffers unless they are the same, or one is not known, or
// Options.Differs says that this pod may serve all the same.
func (r *Reader) Agree(pod string, theirs replication.Mark) error {
	own := r.replica.Trail.At(theirs.Index)
	if own.Index == 0 || own == theirs {
		return nil
	}
	err := fmt.Errorf("%w: after entry %d this pod had %s, %s had %s", replication.ErrDiffers, own.Index, own, pod, theirs)
	if r.differs != nil && r.differs(pod, err.Error()) {
		return nil
	}
	return err
}

// ConfirmWithout returns nil when every voter but this pod and id has, from now
// on, confirmed that it follows this pod, and has stored what is committed: they can
// commit without id. (TestNoVoteIsTakenWhileAnotherPodLags)
func (r *Reader) ConfirmWithout(ctx context.Context, id replication.MemberID) error {
	v := r.replica.Views.Load()
	if !v.Ready {
		return replication.ErrNoMaster
	}
	since, committed := time.Now(), r.replica.Raft.CommitIndex()
	r.replica.VerifyLeader() // for an immediate round of heartbeats
	again := time.NewTicker(r.lease / 8)
	defer again.Stop()
	for {
		because := ""
		for _, other := range r.replica.OtherVoters() {
			switch {
			case other == id:
			case !r.replica.Acks.Confirmed("", []replication.MemberID{other}, v.Term, since):
				because = other.Pod() + " does not answer"
			case !r.replica.Acks.Has(other, v.Term, committed):
				because = other.Pod() + " lags behind"
			}
		}
		if because == "" {
			return nil
		}
		select {
		case <-again.C:
		case <-v.Changed:
			return replication.ErrNoMaster
		case <-ctx.Done():
			return errors.New(because)
		}
	}
}
