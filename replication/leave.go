package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/internal/volume"
)

// leaveAttempt bounds one request to one master.
const leaveAttempt = 2 * time.Second

// Stopping tells the others that this pod is about to end, so that none of them
// makes it the master. It stays a member.
func (n *Node) Stopping() { n.stopping.Store(true) }

// Leave removes this member for good, and returns when it is out of the
// committed membership: its data is set aside by the next Open. It hands the
// baton over first if this pod holds it. After an error the pod is a member
// still, or the masters to come will find out that it is not wanted any more.
func (n *Node) Leave(ctx context.Context) error {
	e := n.engine.Load()
	if e == nil {
		return ErrNotReady
	}
	n.leaving.Store(true)
	for {
		if n.volume.Identity().Retired != "" {
			return nil // it was removed already
		}
		err := n.leave(ctx, e)
		if err == nil {
			return n.volume.Update(func(id *volume.Identity) { id.Retired = "it left: its ordinal is no longer wanted" })
		}
		if ctx.Err() != nil {
			return fmt.Errorf("leave: %w", err)
		}
		sleep(ctx, n.opts.Timing.Retry/5)
	}
}

func (n *Node) leave(ctx context.Context, e *engine) error {
	v := e.views.load()
	if v.leads {
		if len(voters(e.raft.GetConfiguration().Configuration())) == 1 {
			return errors.New("it is the only voter")
		}
		_, err := e.handOver(ctx, v, "")
		return err
	}
	master := v.master.Pod()
	if master == "" {
		// A pod that was removed hears of no master any more.
		var ok bool
		if master, ok = masterOf(n.inspect(ctx, n.neighbours())); !ok {
			return ErrNoMaster
		}
	}
	conn, err := n.calls.conn(master)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaveAttempt)
	defer cancel()
	_, err = peerv1.NewPeerServiceClient(conn).Leave(ctx, &peerv1.LeaveRequest{MemberId: string(e.self)})
	return err
}
