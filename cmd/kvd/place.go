package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
)

const (
	// askPlace bounds what a pod with data asks before it starts. Without an
	// answer it goes on, and asks again while it runs.
	askPlace = time.Second
	// settlePause lies between two looks at a volume that is out of place.
	settlePause = time.Second
	// keepInterval is how often a running pod looks at the record.
	keepInterval = 10 * time.Second
)

// settle returns when the data of this pod's volume may be served: when it
// belongs to this place, and to the cluster of this StatefulSet. Until then it
// says why not, and waits for a person. A volume that is new has nothing to settle.
func (o *orchestrated) settle(ctx context.Context, c *config, say func(because string)) error {
	if o == nil {
		return nil
	}
	defer say("")
	for said := ""; ; {
		disk, err := replication.Examine(c.dataDir)
		if err != nil || !disk.HasData {
			return nil // An error: opening it reports the same.
		}
		because, adopt := o.misplaced(ctx, disk)
		if adopt != "" {
			if _, err := replication.Adopt(ctx, c.dataDir, c.name, adopt); err != nil {
				return fmt.Errorf("adopt: %w", err)
			}
			o.logger.Info("the volume was adopted, as the others of its cluster were", slog.String("place", adopt))
			continue
		}
		if because == "" {
			return nil
		}
		if because != said {
			said = because
			say(because)
			o.logger.Error("this pod does not serve: " + because)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settlePause):
		}
	}
}

// misplaced says why data must not be served here, or that it is to be adopted
// for a place, because a person has adopted another volume of its cluster.
func (o *orchestrated) misplaced(ctx context.Context, disk replication.Disk) (because, adopt string) {
	ctx, cancel := context.WithTimeout(ctx, askPlace)
	defer cancel()
	place, placeErr := o.Place(ctx)
	record, recordErr := o.Record(ctx)
	if recordErr != nil {
		record = kubernetes.Record{}
	}
	if placeErr != nil && o.InPlace(disk.Place) {
		place = disk.Place // As far as can be known now.
	}
	return judgePlace(disk, place, o.Namespace(), record)
}

// judgePlace decides about a disk with data. A place that is not known is empty,
// as a record is; then a disk that remembers a place is not in it.
func judgePlace(disk replication.Disk, place, namespace string, record kubernetes.Record) (because, adopt string) {
	away := disk.Place != "" && disk.Place != place
	switch {
	case away && place != "" && record.Cluster == replication.AdoptedCluster(disk.Cluster, place):
		return "", place
	case away:
		return fmt.Sprintf("the volume belongs to the cluster %s in %s (namespace/uid), and this is namespace %s: it may be a copy, "+
			"and must not be taken for the original. Run kvd adopt in one pod to make the copy a cluster of its own, "+
			"or delete the volume claims to begin with nothing", disk.Cluster, disk.Place, namespace), ""
	case record.Cluster == "" || record.Cluster == disk.Cluster || record.Cluster == disk.Replaces:
		return "", ""
	case record.Replaces == disk.Cluster:
		return fmt.Sprintf("the cluster %s goes on as %s since a person ran kvd recover or kvd adopt; the data of this volume is from before. "+
			"Delete this pod's volume claim and then the pod: it clones", disk.Cluster, record.Cluster), ""
	}
	return fmt.Sprintf("the volume has data of the cluster %s, and the cluster record says that this StatefulSet runs %s. "+
		"Delete this pod's volume claim and then the pod, and it clones; or, if this data is the right one, delete the ConfigMap of the record",
		disk.Cluster, record.Cluster), ""
}

// keep looks after the record and the place while the pod runs: what was not
// known at its start may be known by now. What it finds ends the process only
// if it is certain that the data is served in two places.
func (o *orchestrated) keep(ctx context.Context, log *replication.Node, misplaced chan<- error) {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	for {
		disk := log.Disk()
		if disk.HasData {
			if err := o.keepOnce(ctx, log, disk); err != nil {
				misplaced <- err
				return
			}
		}
		wait := tick.C
		if !disk.HasData {
			wait = time.After(settlePause)
		}
		select {
		case <-ctx.Done():
			return
		case <-wait:
		}
	}
}

func (o *orchestrated) keepOnce(ctx context.Context, log *replication.Node, disk replication.Disk) error {
	place, err := o.Place(ctx)
	if err != nil {
		return nil //nolint:nilerr // It is asked again.
	}
	if err := log.SettleIn(place); err != nil {
		return err
	}
	disk = log.Disk()
	record := kubernetes.Record{}
	if disk.Place == place {
		record, err = o.KeepRecord(ctx, kubernetes.Record{Cluster: disk.Cluster, Replaces: disk.Replaces})
		if err != nil {
			o.logger.Debug("the cluster record could not be looked after", slog.Any("error", err))
			return nil
		}
	}
	because, _ := judgePlace(disk, place, o.Namespace(), record)
	switch {
	case because == "":
		return nil
	case disk.Place != place || record.Replaces == disk.Cluster:
		return errors.New(because)
	}
	o.strange.Do(func() { o.logger.Error("at its next start this pod will not serve: " + because) })
	return nil
}

func adoptCommand() *cobra.Command {
	return podCommand(&cobra.Command{
		Use:   "adopt",
		Short: "Make a copy of a cluster's volumes a cluster of its own",
		Long: "Make data that was copied into another namespace or Kubernetes cluster a cluster of its own,\n" +
			"with an id of its own. Run it in one pod of the copy; the others follow:\n\n" +
			"  kubectl exec kv-0 -- kvd adopt\n\n" +
			"The original is not touched.",
	}, func(cmd *cobra.Command, c *config) error {
		disk, err := adopt(cmd.Context(), c)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is of the cluster %s now, in %s; it goes on from %s\n", disk.Member, disk.Cluster, disk.Place, disk.Replaces)
		return nil
	})
}

// adopt writes the record first: it is what the other pods follow.
func adopt(ctx context.Context, c *config) (replication.Disk, error) {
	o := c.inKubernetes(slog.New(slog.DiscardHandler))
	if o == nil {
		return replication.Disk{}, errors.New("kvd adopt needs the Kubernetes API, which says where this pod is: run it in the pod, with kubectl exec")
	}
	place, err := o.Place(ctx)
	if err != nil {
		return replication.Disk{}, err
	}
	disk, err := replication.Adopt(ctx, c.dataDir, c.name, place)
	if errors.Is(err, replication.ErrLocked) {
		return disk, errors.New("the pod serves its data, so there is nothing to adopt: it is where it belongs")
	}
	if err != nil {
		return disk, err
	}
	if _, err := o.KeepRecord(ctx, kubernetes.Record{Cluster: disk.Cluster, Replaces: disk.Replaces}); err != nil {
		return disk, fmt.Errorf("this volume is adopted; the others follow once the record says so, which it does when this pod runs: %w", err)
	}
	return disk, nil
}
