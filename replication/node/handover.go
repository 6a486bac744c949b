package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/raftio"
)

const (
	// askLast bounds how long the candidates are asked how far they are.
	askLast = 100 * time.Millisecond
)

// HandOver makes another pod the master: the one named, or the one that is
// most likely to stay. It returns the new master. On a follower it asks the master to.
// Writes wait meanwhile, and go to the new master. After ErrNoSuccessor, ErrNoMaster and
// ErrNotReady nothing was done; after any other error that is not known.
//
// The library sends the successor all that it lacks, and then has it stand at once
// (Raft thesis, 3.10). Who is asked, in which order, and what waits meanwhile, is
// for speed and for outcomes that are known: the votes decide, as in any election.
// (TestHandOverUnderLoad, TestCloseHandsOver, TestCloseLeavesNoOutcomeUnknown)
func (n *Node) HandOver(ctx context.Context, to string) (string, error) {
	e := n.engine.Load()
	if e == nil {
		return "", replication.ErrNotReady
	}
	v := e.replica.Views.Load()
	if !v.Leads {
		if v.Master == "" {
			return "", replication.ErrNoMaster
		}
		conn, err := n.calls.Conn(v.Master.Pod())
		if err != nil {
			return "", err
		}
		answer, err := peerv1.NewPeerServiceClient(conn).HandOver(ctx, &peerv1.HandOverRequest{To: to})
		switch status.Code(err) {
		case codes.FailedPrecondition:
			err = fmt.Errorf("%w: %s", replication.ErrNoSuccessor, status.Convert(err).Message())
		case codes.Aborted:
			err = replication.ErrNoMaster
		}
		return answer.GetMaster(), err
	}
	return e.handOver(ctx, v, to, false)
}

// handing is held during a hand over.
type handing struct {
	mu   sync.Mutex // held during a hand over; guards late
	late map[replication.MemberID]lateSuccessor
}

// lateSuccessor did not take the baton in time. It is not asked again in that
// term before it has an entry that was written later: the library has left a
// question to the goroutine that replicates to it, in a channel that holds one,
// and its next attempt waits until that is taken out. If the pod loses its place
// meanwhile, nobody takes it out, and its Raft refuses all writes from then on,
// even once it leads again; see commitFirstEntry, and
// TestHandOverToAPodThatHangs.
type lateSuccessor struct{ term, last uint64 }

// timedOut says whether an attempt ended because the successor did not keep up.
func timedOut(err error) bool { return err.Error() == "leadership transfer timeout" }

func (h *handing) tooLate(successor replication.MemberID, term, last uint64) {
	if h.late == nil {
		h.late = map[replication.MemberID]lateSuccessor{}
	}
	h.late[successor] = lateSuccessor{term, last}
}

// mayAsk says whether a successor may be asked in a term; last is the end of its log.
func (h *handing) mayAsk(successor replication.MemberID, term, last uint64) bool {
	before, late := h.late[successor]
	return !late || before.term != term || last > before.last
}

// handOver hands over with no write in flight, so that no caller is left in
// doubt. With anyway set it hands over even if the writes in flight do not end.
func (e *engine) handOver(ctx context.Context, v *raftio.View, to string, anyway bool) (string, error) {
	if !e.handing.mu.TryLock() {
		return "", fmt.Errorf("%w: another hand over is under way", replication.ErrNoSuccessor)
	}
	defer e.handing.mu.Unlock()
	successors := e.successors(ctx, v.Term, to)
	if len(successors) == 0 {
		if to != "" {
			return "", fmt.Errorf("%w: %s is not a voter that answers, or did not keep up when this master tried it before", replication.ErrNoSuccessor, to)
		}
		return "", fmt.Errorf("%w: no other voter answers and keeps up", replication.ErrNoSuccessor)
	}
	pausing, cancel := context.WithTimeout(ctx, e.timing.Election)
	defer cancel()
	resume, err := e.router.Proposer.Pause(pausing)
	switch {
	case err == nil:
		defer resume()
	case !anyway:
		return "", fmt.Errorf("%w: the writes in flight do not end: %v", replication.ErrNoSuccessor, err)
	}
	for _, successor := range successors {
		if err = e.replica.Await(e.replica.Raft.LeadershipTransferToServer(raft.ServerID(successor), raft.ServerAddress(successor))); err == nil {
			return e.awaitSuccessor(ctx, v)
		}
		if timedOut(err) {
			e.handing.tooLate(successor, v.Term, e.replica.Raft.LastIndex())
		}
		e.logger.Warn("a pod did not take the baton", "pod", successor.Pod(), "error", err)
		if ctx.Err() != nil {
			break
		}
	}
	return "", fmt.Errorf("%w: hand over: %w", replication.ErrUnknown, err) // The last successor may stand yet.
}

func (e *engine) awaitSuccessor(ctx context.Context, old *raftio.View) (string, error) {
	for {
		v := e.replica.Views.Load()
		if v.Master != "" && v.Term > old.Term {
			return v.Master.Pod(), nil
		}
		select {
		case <-v.Changed:
		case <-ctx.Done():
			return "", fmt.Errorf("hand over: no new master yet: %w", ctx.Err())
		}
	}
}
