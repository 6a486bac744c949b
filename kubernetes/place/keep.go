package place

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
)

const (
	// keepInterval is how often a running pod looks at the record.
	keepInterval = 10 * time.Second
	// quorumPatience, longer than an election, is how long a pod waits to hear that it
	// has a quorum. After yieldAfter failures in a row it believes that it has none.
	quorumPatience = 5 * time.Second
	yieldAfter     = 3
)

// Node is what a Keeper needs of the replicated node.
type Node interface {
	Disk() replication.Disk
	RecordPlace(place string) error
	LinearizableRead(ctx context.Context) error
	Members() []replication.Member
}

// Keeper looks after the record and the place while a pod runs: what was not known
// at its start may be known by now. One goroutine runs it.
type Keeper struct {
	Pod    *kubernetes.Pod
	Node   Node
	Logger *slog.Logger

	warned bool
	noMap  bool // It was said that there is no ConfigMap for the record.
	lonely int  // How often in a row the pod should have yielded and had no quorum.
}

// Run returns an error when the pod must end, because its data must not be served
// here, and nil when ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	for {
		disk := k.Node.Disk()
		if disk.HasData && disk.Successor == "" {
			if err := k.look(ctx); err != nil {
				return err
			}
		}
		wait := tick.C
		if !disk.HasData {
			wait = time.After(Pause)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wait:
		}
	}
}

func (k *Keeper) look(ctx context.Context) error {
	f, known := k.facts(ctx)
	if !known {
		return nil // It is asked again.
	}
	course, because := judgeServing(f)
	if course == yield {
		return k.yield(ctx, f, because)
	}
	k.lonely = 0
	switch course {
	case end:
		return errors.New(because)
	case warn:
		if !k.warned {
			k.warned = true
			k.Logger.Error("at its next start this pod will not serve: " + because)
		}
	}
	return nil
}

// facts also notes the place, and writes the record if there is none.
func (k *Keeper) facts(ctx context.Context) (f Facts, known bool) {
	place, err := k.Pod.Place(ctx)
	if err != nil {
		return Facts{}, false
	}
	if err := k.Node.RecordPlace(place); err != nil {
		k.Logger.Debug("where the data belongs is not noted yet", slog.Any("error", err))
		return Facts{}, false
	}
	f = Facts{Disk: k.Node.Disk(), Place: place, Namespace: k.Pod.Namespace()}
	if f.Disk.Place != place {
		return f, true
	}
	f.Record, err = k.Pod.KeepRecord(ctx, kubernetes.Record{Cluster: f.Disk.Cluster, Replaces: f.Disk.Replaces})
	missing := errors.Is(err, kubernetes.ErrNoPlaceForRecord)
	switch {
	case missing && !k.noMap:
		k.Logger.Warn("the cluster record is not kept", slog.Any("error", err))
	case err != nil:
		k.Logger.Debug("the cluster record could not be looked after", slog.Any("error", err))
	}
	k.noMap = missing
	return f, err == nil
}

// yield ends a pod whose cluster goes on elsewhere, as the record says, once it has
// had no quorum several times. A pod with a quorum does not yield: whoever
// recovered was only cut off from it. With more than one voter it puts the record
// right, so that pods that start find their cluster; alone, it may be the one that
// errs.
func (k *Keeper) yield(ctx context.Context, f Facts, because string) error {
	asking, cancel := context.WithTimeout(ctx, quorumPatience)
	defer cancel()
	if err := k.Node.LinearizableRead(asking); err != nil {
		if k.lonely++; k.lonely < yieldAfter || ctx.Err() != nil {
			return nil
		}
		return errors.New(because)
	}
	k.lonely = 0
	k.Logger.Error("the cluster record names a cluster that goes on from this one, and this one has a quorum and goes on: kvd recover was run in a pod "+
		"that was only cut off. Delete that pod's volume claim and the pod", slog.String("cluster", f.Disk.Cluster),
		slog.String("record", f.Record.Cluster), slog.String("recovered_by", f.Record.Founder))
	voters := 0
	for _, m := range k.Node.Members() {
		if m.Voter {
			voters++
		}
	}
	if voters < 2 {
		return nil
	}
	if err := k.Pod.ExchangeRecord(ctx, f.Record.Cluster, kubernetes.Record{Cluster: f.Disk.Cluster, Replaces: f.Disk.Replaces}); err != nil {
		k.Logger.Info("the cluster record is not put right yet", slog.Any("error", err))
	}
	return nil
}
