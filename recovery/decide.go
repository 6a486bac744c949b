package recovery

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/node"
)

// Node is what a decision needs of the replicated node.
type Node interface {
	CheckRecovery(ctx context.Context, r replication.Recovery) error
	Disk() replication.Disk
	Succeed(cluster string) error
}

// Decide decides to recover, unless that would lose what another pod has, and
// returns the new cluster. Outside of Kubernetes pod is nil.
func Decide(ctx context.Context, node Node, r replication.Recovery, pod *kubernetes.Pod) (cluster string, err error) {
	if err := node.CheckRecovery(ctx, r); err != nil {
		return "", err
	}
	disk, now := node.Disk(), kubernetes.Record{}
	if pod != nil {
		if now, err = pod.Record(ctx); err != nil {
			now = kubernetes.Record{} // To exchange it will fail as well.
		}
	}
	next := successor(disk, now, uuid.NewString())
	if pod != nil {
		if err := exchange(ctx, pod, disk.Cluster, next); err != nil {
			return "", err
		}
	}
	if err := node.Succeed(next.Cluster); err != nil {
		return "", fmt.Errorf("it is decided, and could not be noted on the disk; run the command again: %w", err)
	}
	return next.Cluster, nil
}

// successor is the record of the cluster that goes on from a disk: a fresh one, or
// what this pod has decided earlier and not noted on its disk.
func successor(disk replication.Disk, now kubernetes.Record, fresh string) kubernetes.Record {
	next := kubernetes.Record{Cluster: fresh, Founder: string(disk.Member), Replaces: disk.Cluster}
	if now.Founder == next.Founder && now.Replaces == next.Replaces {
		return now
	}
	return next
}

// exchange exchanges the record, and says what became of it otherwise.
func exchange(ctx context.Context, pod *kubernetes.Pod, from string, to kubernetes.Record) error {
	err := pod.ExchangeRecord(ctx, from, to)
	switch {
	case errors.Is(err, kubernetes.ErrUnknown):
		return fmt.Errorf("run the command again, and it goes on: %w", err)
	case err != nil:
		return fmt.Errorf("nothing was done, for the pods must know which cluster they belong to: %w", err)
	}
	return nil
}

// Adopt makes the copy in r.Dir the beginning of a cluster of its own, in this pod's
// place. The record is exchanged first: the other pods follow it, and this one
// goes on by it after a crash.
func Adopt(ctx context.Context, pod *kubernetes.Pod, r replication.Recovery) (replication.Disk, error) {
	place, err := pod.Place(ctx)
	if err != nil {
		return replication.Disk{}, err
	}
	disk, err := node.Examine(r.Dir)
	if err == nil {
		err = adoptable(disk, place)
	}
	if err != nil {
		return disk, err
	}
	if err := node.CheckData(ctx, r); err != nil {
		return disk, fmt.Errorf("nothing was done, for this copy cannot be read; adopt another one: %w", err)
	}
	r.Cluster, r.Place = replication.AdoptedCluster(disk.Cluster, place), place
	record := kubernetes.Record{Cluster: r.Cluster, Founder: string(disk.Member), Replaces: disk.Cluster}
	if err := exchange(ctx, pod, disk.Cluster, record); err != nil {
		return disk, err
	}
	return FinishOrWait(ctx, r)
}

// adoptable says why a disk cannot be adopted in a place.
func adoptable(disk replication.Disk, place string) error {
	switch {
	case !disk.HasData:
		return errors.New("the volume has no data to adopt")
	case disk.Place == "" || disk.Place == place:
		return errors.New("the volume is where it belongs: there is nothing to adopt")
	}
	return nil
}
