package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/node"
)

// Finish does what was decided: the data in r.Dir becomes the beginning of
// r.Cluster. Whoever waits for an answer beside the data gets it. With
// replication.ErrLocked another process holds the directory.
func Finish(ctx context.Context, r replication.Recovery) error {
	disk, err := node.Recover(ctx, r)
	if errors.Is(err, replication.ErrLocked) {
		return err
	}
	said := answer{OK: err == nil, Text: Done(disk)}
	if said.OK {
		r.Logger.Warn("this pod's data is the beginning of a new history", slog.String("cluster", disk.Cluster), slog.String("goes_on_from", disk.Replaces))
	} else {
		said.Text = fmt.Sprintf("the new history is decided, and not written yet; it is tried again whenever this pod starts: %v", err)
	}
	said.leave(r.Dir, r.Logger)
	return err
}

// FinishOrWait is Finish, unless the pod that runs is faster.
func FinishOrWait(ctx context.Context, r replication.Recovery) (replication.Disk, error) {
	for {
		err := Finish(ctx, r)
		disk, examined := node.Examine(r.Dir)
		switch {
		case examined == nil && disk.Cluster == r.Cluster:
			return disk, nil
		case err != nil && !errors.Is(err, replication.ErrLocked):
			return disk, err
		}
		if !sleep.For(ctx, poll) {
			return disk, ctx.Err()
		}
	}
}

// Done says what has come of a recovery.
func Done(disk replication.Disk) string {
	return fmt.Sprintf("%s is the only member of the new cluster %s, which goes on from %s. "+
		"Pods without data clone from it. Pods with older data do not start with it, and say what to do.",
		disk.Member, disk.Cluster, disk.Replaces)
}
