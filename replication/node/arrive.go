package node

import (
	"cmp"
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/replication/internal/clone"
	"github.com/batondb/baton/replication/internal/policy"
	"github.com/batondb/baton/replication/internal/volume"
)

// Arrive returns when there is a database to open: it was there, or this pod
// has founded the cluster, or it has received a clone. It waits as long as
// neither is possible, and says why in the log and in Status.
func (n *Node) Arrive(ctx context.Context) error {
	defer n.progress.Wait("")
	defer n.progress.MarkCold(false)
	var name nameWatch
	var could time.Time
	pause := n.opts.Timing.Retry
	if n.opts.Founding != nil {
		pause *= 2 // who is asked serves others as well
	}
	for {
		if n.volume.Identity().Stage != volume.Empty {
			return nil
		}
		because, err := n.arrive(ctx, &could)
		if err != nil {
			return err
		}
		if because != "" {
			name.look(n, n.opts.Name)
			if n.progress.Wait(because) {
				n.logger.Info("this pod has no data, and waits", "because", because)
			}
			sleep.For(ctx, pause)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// awaitBefore is how long a pod that could clone waits for the pod before it: much
// longer than that one needs for a small database. With a large one it is better
// to begin.
const awaitBefore = 10 * time.Second

// arrive makes one attempt, and says what is missing. could is since when this pod
// could have cloned.
func (n *Node) arrive(ctx context.Context, could *time.Time) (because string, err error) {
	d := n.lookAround(ctx).Decide()
	n.progress.MarkCold(d.Cold)
	if d.Meet {
		// Before a byte is received: a pod that has once met a cluster never founds another.
		if err := n.volume.Update(func(id *volume.Identity) { id.ClusterID = d.Cluster }); err != nil {
			return "", err
		}
	}
	switch d.Do {
	case policy.Initialize:
		cluster := cmp.Or(d.Cluster, uuid.NewString())
		n.logger.Info("this pod founds the cluster", "cluster", cluster, "because", d.Because)
		return "", n.volume.Update(func(id *volume.Identity) { id.ClusterID, id.Stage = cluster, volume.Bootstrapping })
	case policy.Clone:
		if could.IsZero() {
			*could = time.Now()
		}
		if d.After != "" && time.Since(*could) < awaitBefore {
			return "it is to clone the pod before it, and " + d.After + " is about to have the data", nil
		}
		return n.clone(ctx, d.Master, d.Sources)
	}
	return d.Because, nil
}

// lookAround finds out all that the decision depends on.
func (n *Node) lookAround(ctx context.Context) policy.Arrival {
	a := policy.Arrival{Pod: n.opts.Name, Cluster: n.volume.Identity().ClusterID, Peers: n.opts.Peers, Wanted: n.wanted()}
	if a.Unwanted() {
		return a
	}
	a.Candidates = n.candidatePods()
	a.Seen = seenAs(n.inspect(ctx, a.Candidates))
	a.Absent = n.absentAmong(policy.Cold{Wanted: a.Wanted, Candidates: a.Candidates, Seen: a.Seen}.Unseen())
	if n.opts.Founding != nil && a.Asks() {
		var s policy.Sign
		var err error
		if s.Cluster, s.Founds, err = n.opts.Founding(ctx, n.MemberID(), a.Fresh(), a.Seen.Empty()); err != nil {
			s.Missing = err.Error()
		}
		a.Sign = &s
	}
	return a
}

// clone receives the database from the first of sources that can give it, or says
// what is missing; master keeps its log meanwhile.
func (n *Node) clone(ctx context.Context, master string, sources []string) (because string, err error) {
	r := &clone.Receiver{
		Options: &n.opts, Logger: n.logger, Member: n.MemberID(), Conn: n.calls.Conn, Progress: &n.progress,
		Master: func(ctx context.Context) (string, bool) { return n.seen(ctx).Master() },
	}
	if because, err := r.Receive(ctx, master, sources); because != "" || err != nil {
		return because, err
	}
	return "", n.volume.Update(func(id *volume.Identity) { id.Stage = volume.Data })
}
