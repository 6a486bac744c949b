package node

import (
	"context"
	"fmt"
	"time"

	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/volume"
)

// leaveAttempt bounds one request to one master.
const leaveAttempt = 2 * time.Second

// Stopping tells the others that this pod is about to end, so that none of them
// makes it the master. It stays a member.
func (n *Node) Stopping() { n.fate.stopping.Store(true) }

// Leave removes this member for good, and returns when it is out of the
// committed membership: its data is set aside by the next Open. It hands the
// baton over first if this pod holds it. After an error the pod is a member
// still, or the masters to come will find out that it is not wanted any more.
func (n *Node) Leave(ctx context.Context) error {
	if n.engine.Load() == nil {
		return replication.ErrNotReady
	}
	n.fate.leaving.Store(true)
	for {
		if n.volume.Identity().Retired != "" {
			return nil // it was removed already
		}
		err := n.askOut(ctx, false)
		if err == nil {
			return n.volume.Update(func(id *volume.Identity) { id.Retired = "it left: its ordinal is no longer wanted" })
		}
		if ctx.Err() != nil {
			return fmt.Errorf("leave: %w", err)
		}
		sleep.For(ctx, n.opts.Timing.Retry/5)
	}
}
