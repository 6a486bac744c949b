package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/sleep"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/volume"
)

// errAlone is returned when there is nobody who could go on without this pod.
var errAlone = errors.New("it is the only voter")

// Reclone gives up this pod's data, because it differs or is damaged: after a
// restart the pod is a new member and clones. First the intention is noted on
// disk: from then on nobody clones from this pod or hands it the baton. The data
// is kept, and this member votes on, until a master has committed that it has no
// vote any more; so what is given up is never more than the others can do
// without, however many pods find damage at once. Reclone asks until then: it
// returns when the decision is on disk, which Failed tells as well, or when ctx
// ends. It may be called from Open on; Start goes on with what a crash has cut.
func (n *Node) Reclone(ctx context.Context, reason string) error {
	n.fate.useless.CompareAndSwap(nil, &reason)
	err := n.note(ctx, func(id *volume.Identity) {
		if id.Condemned == "" {
			id.Condemned = reason
		}
	})
	if err != nil {
		return err
	}
	if err := n.askToReclone(ctx, reason); err != nil {
		return fmt.Errorf("the data of this pod is kept: %w", err)
	}
	if err := n.retire(ctx, reason); !errors.Is(err, replication.ErrRetired) {
		return err
	}
	return nil
}

// askToReclone returns nil when a master has committed that this member has no
// vote, or, when ctx ends, with why none has.
func (n *Node) askToReclone(ctx context.Context, reason string) error {
	var refused error
	for {
		err := n.askOut(ctx, true)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return cmp.Or(refused, err)
		}
		if refused == nil || status.Code(err) != codes.DeadlineExceeded {
			refused = err // That an attempt was cut off says less than what the one before it was told.
		}
		because := fmt.Sprintf("its data is of no use (%s); it is kept until the others can do without it: %s", reason, status.Convert(refused).Message())
		if n.progress.Wait(because) {
			n.logger.Warn("this pod does not serve: " + because)
		}
		sleep.For(ctx, n.opts.Timing.Retry)
	}
}

// goOnRecloning goes on with what a crash has cut.
func (n *Node) goOnRecloning(ctx context.Context) {
	if reason := n.condemned(); reason != "" {
		if err := n.Reclone(ctx, reason); err != nil {
			n.logger.Debug("the data is kept", "error", err)
		}
	}
}

// recloneIfStranded gives this pod's data up when the cluster has a master whose term is
// far below this pod's. Neither believes the other's messages (see raftio, vet.go), so
// this pod would be away for ever. That there is such a master is asked of it, and of
// a quorum through it, not taken from a message.
func (n *Node) recloneIfStranded(ctx context.Context) {
	t := n.engine.Load().replica.Transport
	for ctx.Err() == nil {
		if sleep.For(ctx, time.Second); !t.Stranded() || n.condemned() != "" {
			continue
		}
		seen := n.seen(ctx)
		master, ok := seen.Master()
		if !ok || master == n.opts.Name || !t.FarBelow(seen[master].Term) {
			continue
		}
		conn, err := n.calls.Conn(master)
		if err != nil {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, leaveAttempt)
		_, err = peerv1.NewPeerServiceClient(conn).ReadIndex(asking, &peerv1.ReadIndexRequest{})
		cancel()
		if err != nil {
			continue
		}
		reason := fmt.Sprintf("its term %d is far above that of the master %s, %d", n.Term(), master, seen[master].Term)
		if err := n.Reclone(ctx, reason); err != nil {
			n.logger.Debug("the data is kept", "error", err)
		}
	}
}

// condemned says why this pod's data is of no use; empty: it is not. It is known
// before it can be noted on the disk.
func (n *Node) condemned() string {
	if why := n.fate.useless.Load(); why != nil {
		return *why
	}
	return n.volume.Identity().Condemned
}

// note changes the identity on disk. The disk may be full, or fail, for a while:
// it is tried until ctx ends.
func (n *Node) note(ctx context.Context, change func(*volume.Identity)) error {
	for {
		err := n.volume.Update(change)
		if err == nil || ctx.Err() != nil {
			return err
		}
		because := "what becomes of its data cannot be written to the disk: " + err.Error()
		if n.progress.Wait(because) {
			n.logger.Warn("this pod does not serve: " + because)
		}
		sleep.For(ctx, n.opts.Timing.Retry)
	}
}

// askOut asks the master once to take this member out: its vote, if it is to
// clone again, or all of it. A pod that is the master hands the baton over first.
func (n *Node) askOut(ctx context.Context, reclone bool) error {
	master, err := n.masterToAsk(ctx)
	if err != nil {
		return err
	}
	conn, err := n.calls.Conn(master)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaveAttempt)
	defer cancel()
	_, err = peerv1.NewPeerServiceClient(conn).Leave(ctx, &peerv1.LeaveRequest{MemberId: string(n.MemberID()), Reclone: reclone})
	return err
}

// masterToAsk is a master that is another pod.
func (n *Node) masterToAsk(ctx context.Context) (pod string, err error) {
	if e := n.engine.Load(); e != nil {
		v := e.replica.Views.Load()
		if v.Leads {
			if len(e.replica.OtherVoters()) == 0 {
				return "", errAlone
			}
			ctx, cancel := context.WithTimeout(ctx, 4*e.timing.Election)
			defer cancel()
			// What is of no use may apply nothing any more: its writes never end.
			return e.handOver(ctx, v, "", n.condemned() != "")
		}
		if v.Master != "" {
			return v.Master.Pod(), nil
		}
	}
	// A pod that was removed hears of no master any more.
	pod, ok := n.seen(ctx).Master()
	if !ok {
		return "", replication.ErrNoMaster
	}
	return pod, nil
}
