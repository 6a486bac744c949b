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
	// quorumPatience bounds the question whether the pod has a quorum: longer than
	// an election. yieldAfter such questions in vain it believes that it has none.
	quorumPatience = 5 * time.Second
	yieldAfter     = 3
)

// settle returns when the data of this pod's volume may be served: when it
// belongs to this place, and to the cluster of this StatefulSet. Until then it
// says why not, and waits for a person; or it does what a person has decided, here
// or in another pod. A volume that is new has nothing to settle.
func (o *kubernetesPod) settle(ctx context.Context, c *config, say func(because string)) error {
	if o == nil {
		return nil
	}
	defer say("")
	for said, labelled := "", true; ; {
		disk, err := replication.Examine(c.dataDir)
		if err != nil || !disk.HasData {
			return nil // An error: opening it reports the same.
		}
		j := o.judge(ctx, disk)
		if j.because == "" {
			return nil
		}
		if j.because != said {
			said = j.because
			say(j.because)
			o.logger.Error("this pod does not serve: " + j.because)
		}
		if labelled {
			labelled = o.unlabel(ctx) != nil
		}
		if err := o.carryOut(ctx, c, j); err != nil && !errors.Is(err, replication.ErrLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settlePause):
		}
	}
}

// unlabel takes the label of an earlier process away, or that of the pod that a
// backup was made of: others give up their copies when a pod is the master.
func (o *kubernetesPod) unlabel(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askPlace)
	defer cancel()
	return o.SetRole(ctx, "")
}

// carryOut does with the data what was decided.
func (o *kubernetesPod) carryOut(ctx context.Context, c *config, j judgement) error {
	switch {
	case j.begins != "":
		return c.succeed(ctx, j.begins, j.place, o, o.logger)
	case j.joins != "":
		// Before it leads it is not known that the copy that was chosen is whole.
		if led, err := o.Led(ctx); err != nil || !led {
			return nil //nolint:nilerr // It is asked again.
		}
		return replication.SetAside(ctx, c.dataDir, c.name, j.joins, j.because)
	}
	return nil
}

// judge asks what is known, and decides about a disk with data.
func (o *kubernetesPod) judge(ctx context.Context, disk replication.Disk) judgement {
	ctx, cancel := context.WithTimeout(ctx, askPlace)
	defer cancel()
	place, placeErr := o.Place(ctx)
	record, recordErr := o.Record(ctx)
	switch {
	case recordErr == nil || errors.Is(recordErr, kubernetes.ErrNoRecord):
	case disk.Successor != "":
		return judgement{because: fmt.Sprintf("it is to begin the cluster %s with its data, and the cluster record, which may say otherwise by now, "+
			"cannot be read: %v", disk.Successor, recordErr)}
	default:
		record = kubernetes.Record{}
	}
	if placeErr != nil && o.InPlace(disk.Place) {
		place = disk.Place // As far as can be known now.
	}
	return judgePlace(disk, place, o.Namespace(), record)
}

// judgement says why data must not be served here, and what is to be done.
type judgement struct {
	// because is empty when it may be served.
	because string
	// begins is the cluster that a person has told this pod to begin with its data,
	// in a place; joins is the one that another pod has begun with its copy.
	begins, place, joins string
}

// judgePlace decides about a disk with data. A place that is not known is empty,
// as a record is; then a disk that remembers a place is not in it.
func judgePlace(disk replication.Disk, place, namespace string, record kubernetes.Record) judgement {
	away := disk.Place != "" && disk.Place != place
	adopted := away && place != "" && record.Cluster == replication.AdoptedCluster(disk.Cluster, place)
	replaced := record.Replaces != "" && record.Replaces == disk.Cluster
	switch {
	case replaced && record.Founder == string(disk.Member) && (adopted || !away):
		return judgement{because: "it begins the cluster " + record.Cluster + " with its data, as a person has told it", begins: record.Cluster, place: place}
	case adopted:
		return judgement{because: "the volume is a copy, and another copy of its cluster was adopted as " + record.Cluster +
			"; its own data may be of another moment, so it is set aside, and the pod clones, once " + record.Founder + " leads", joins: record.Cluster}
	case away:
		return judgement{because: fmt.Sprintf("the volume belongs to the cluster %s in %s (namespace/uid), and this is namespace %s: it may be a copy, "+
			"and must not be taken for the original. Run kvd adopt in the pod with the copy that is to go on, to make it a cluster of its own, "+
			"or delete the volume claims to begin with nothing", disk.Cluster, disk.Place, namespace)}
	case record.Cluster == "" || record.Cluster == disk.Cluster && disk.Successor == "":
		return judgement{}
	case record.Cluster == disk.Cluster:
		return judgement{because: fmt.Sprintf("this volume was to go on as the cluster %s, and the cluster record says that %s itself goes on: "+
			"its pods had a quorum after all. Delete this pod's volume claim and then the pod: it clones. If this data is the right one, delete the ConfigMap of the record",
			disk.Successor, disk.Cluster)}
	case record.Cluster == disk.Replaces:
		return judgement{because: fmt.Sprintf("this volume's cluster %s was to go on from %s, and the cluster record says that %s itself goes on: "+
			"its pods had a quorum after all. Delete this pod's volume claim and then the pod: it clones. If this data is the right one, delete the ConfigMap of the record",
			disk.Cluster, disk.Replaces, disk.Replaces)}
	case replaced:
		return judgement{because: fmt.Sprintf("the cluster %s goes on as %s since a person ran kvd recover; the data of this volume is from before, "+
			"and may have acknowledged writes that %s lacks. If that was right, and %s serves and has what you need, delete this pod's volume claim and then the pod: "+
			"it clones. If it was a mistake, write %s back into the ConfigMap of the record, as cluster, and remove replaces",
			disk.Cluster, record.Cluster, record.Cluster, record.Founder, disk.Cluster)}
	}
	return judgement{because: fmt.Sprintf("the volume has data of the cluster %s, and the cluster record says that this StatefulSet runs %s. "+
		"If that one is right, delete this pod's volume claim and then the pod, and it clones; if this data is, delete the ConfigMap of the record",
		disk.Cluster, record.Cluster)}
}

// keep looks after the record and the place while the pod runs: what was not
// known at its start may be known by now. What it finds ends the process only
// if it is certain that the data is served in two places, or that the cluster which
// it goes on from had a quorum after all, or that it is of a cluster that goes on
// elsewhere, and this pod has no quorum of it.
func (o *kubernetesPod) keep(ctx context.Context, node *replication.Node, misplaced chan<- error) {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	for {
		disk := node.Disk()
		if disk.HasData && disk.Successor == "" {
			if err := o.keepOnce(ctx, node, disk); err != nil {
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

func (o *kubernetesPod) keepOnce(ctx context.Context, node *replication.Node, disk replication.Disk) error {
	place, err := o.Place(ctx)
	if err != nil {
		return nil //nolint:nilerr // It is asked again.
	}
	if err := node.RecordPlace(place); err != nil {
		o.logger.Debug("where the data belongs is not noted yet", slog.Any("error", err))
		return nil
	}
	disk = node.Disk()
	record := kubernetes.Record{}
	if disk.Place == place {
		record, err = o.KeepRecord(ctx, kubernetes.Record{Cluster: disk.Cluster, Replaces: disk.Replaces})
		if err != nil {
			o.logger.Debug("the cluster record could not be looked after", slog.Any("error", err))
			return nil
		}
	}
	because := judgePlace(disk, place, o.Namespace(), record).because
	switch {
	case because == "":
		o.lonely = 0
		return nil
	case disk.Place != place || record.Cluster == disk.Replaces:
		return errors.New(because)
	case record.Replaces == disk.Cluster:
		return o.replaced(ctx, node, disk, record, because)
	}
	o.strange.Do(func() { o.logger.Error("at its next start this pod will not serve: " + because) })
	return nil
}

// replaced is for a pod that serves a cluster of which the record says that
// another one goes on from it. A pod with a quorum does not yield: whoever
// recovered was only cut off from it. With more than one voter it puts the record
// right, so that pods that start find their cluster; alone, it may be the one that
// errs. Without a quorum, several times, it ends.
func (o *kubernetesPod) replaced(ctx context.Context, node *replication.Node, disk replication.Disk, record kubernetes.Record, because string) error {
	asking, cancel := context.WithTimeout(ctx, quorumPatience)
	defer cancel()
	if err := node.LinearizableRead(asking); err != nil {
		if o.lonely++; o.lonely < yieldAfter || ctx.Err() != nil {
			return nil
		}
		return errors.New(because)
	}
	o.lonely = 0
	o.logger.Error("the cluster record names a cluster that goes on from this one, and this one has a quorum and goes on: kvd recover was run in a pod "+
		"that was only cut off. Delete that pod's volume claim and the pod", slog.String("cluster", disk.Cluster),
		slog.String("record", record.Cluster), slog.String("recovered_by", record.Founder))
	voters := 0
	for _, m := range node.Members() {
		if m.Voter {
			voters++
		}
	}
	if voters < 2 {
		return nil
	}
	if err := o.ExchangeRecord(ctx, record.Cluster, kubernetes.Record{Cluster: disk.Cluster, Replaces: disk.Replaces}); err != nil {
		o.logger.Info("the cluster record is not put right yet", slog.Any("error", err))
	}
	return nil
}

func adoptCommand() *cobra.Command {
	return podCommand(&cobra.Command{
		Use:   "adopt",
		Short: "Make a copy of a cluster's volumes a cluster of its own",
		Long: "Make data that was copied into another namespace or Kubernetes cluster a cluster of its own,\n" +
			"with an id of its own and a new history. Run it in the pod whose copy is to go on; the others set their copies\n" +
			"aside and clone it, for copies of different moments do not fit together:\n\n" +
			"  kubectl exec kv-0 -- kvd adopt\n\n" +
			"The original is not touched.",
	}, func(cmd *cobra.Command, c *config) error {
		disk, err := adopt(cmd.Context(), c)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is the only member of the cluster %s now, in %s; it goes on from %s. The other pods clone it\n",
			disk.Member, disk.Cluster, disk.Place, disk.Replaces)
		return nil
	})
}

// adopt exchanges the record first: it is what the other pods follow, and what
// this one goes on by after a crash.
func adopt(ctx context.Context, c *config) (replication.Disk, error) {
	o := c.inKubernetes(slog.New(slog.DiscardHandler))
	if o == nil {
		return replication.Disk{}, errors.New("kvd adopt needs the Kubernetes API, which says where this pod is: run it in the pod, with kubectl exec")
	}
	place, err := o.Place(ctx)
	if err != nil {
		return replication.Disk{}, err
	}
	disk, err := replication.Examine(c.dataDir)
	switch {
	case err != nil:
		return disk, err
	case !disk.HasData:
		return disk, errors.New("the volume has no data to adopt")
	case disk.Place == "" || disk.Place == place:
		return disk, errors.New("the volume is where it belongs: there is nothing to adopt")
	}
	if err := replication.CheckData(ctx, c.recovery(nil, nil, o.logger)); err != nil {
		return disk, fmt.Errorf("nothing was done, for this copy cannot be read; adopt another one: %w", err)
	}
	record := kubernetes.Record{Cluster: replication.AdoptedCluster(disk.Cluster, place), Founder: string(disk.Member), Replaces: disk.Cluster}
	if err := exchange(ctx, o, disk.Cluster, record); err != nil {
		return disk, err
	}
	return c.succeedOrWait(ctx, record.Cluster, place, o)
}
