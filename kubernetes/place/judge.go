package place

import (
	"fmt"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
)

// Facts are what a pod with data knows before it serves, or while it does.
type Facts struct {
	Disk replication.Disk
	// Place is where the pod is, and Namespace the name in it. An empty place is not
	// known; then a disk that remembers a place is not in it.
	Place, Namespace string
	// Record is empty when there is none, or when it is not known.
	Record kubernetes.Record
	// RecordErr says why the record could not be read; nil: it was, or there is none.
	RecordErr error
}

// Verdict says whether data may be served, and what is to be done with it.
type Verdict struct {
	// Because says why the data must not be served, and what a person does; empty:
	// it may be.
	Because string
	// Begins is the cluster that a person has told this pod to begin with its data;
	// Joins is the one that another pod has begun with its copy. Mostly empty.
	Begins, Joins string
}

// Judge decides about a disk with data.
func Judge(f Facts) Verdict {
	disk, record := f.Disk, f.Record
	if f.RecordErr != nil && disk.Successor != "" {
		return Verdict{Because: fmt.Sprintf("it is to begin the cluster %s with its data, and the cluster record, which may say otherwise by now, "+
			"cannot be read: %v", disk.Successor, f.RecordErr)}
	}
	away := disk.Place != "" && disk.Place != f.Place
	adopted := away && f.Place != "" && record.Cluster == replication.AdoptedCluster(disk.Cluster, f.Place)
	replaced := record.Replaces != "" && record.Replaces == disk.Cluster
	switch {
	case replaced && record.Founder == string(disk.Member) && (adopted || !away):
		return Verdict{Because: "it begins the cluster " + record.Cluster + " with its data, as a person has told it", Begins: record.Cluster}
	case adopted:
		return Verdict{Because: "the volume is a copy, and another copy of its cluster was adopted as " + record.Cluster +
			"; its own data may be of another moment, so it is set aside, and the pod clones, once " + record.Founder + " leads", Joins: record.Cluster}
	case away:
		return Verdict{Because: fmt.Sprintf("the volume belongs to the cluster %s in %s (namespace/uid), and this is namespace %s: it may be a copy, "+
			"and must not be taken for the original. Run kvd adopt in the pod with the copy that is to go on, to make it a cluster of its own, "+
			"or delete the volume claims to begin with nothing", disk.Cluster, disk.Place, f.Namespace)}
	case record.Cluster == "" || record.Cluster == disk.Cluster && disk.Successor == "":
		return Verdict{}
	case record.Cluster == disk.Cluster:
		return Verdict{Because: fmt.Sprintf("this volume was to go on as the cluster %s, and the cluster record says that %s itself goes on: "+
			"its pods had a quorum after all. Delete this pod's volume claim and then the pod: it clones. If this data is the right one, delete the ConfigMap of the record, and apply the manifest again",
			disk.Successor, disk.Cluster)}
	case record.Cluster == disk.Replaces:
		return Verdict{Because: fmt.Sprintf("this volume's cluster %s was to go on from %s, and the cluster record says that %s itself goes on: "+
			"its pods had a quorum after all. Delete this pod's volume claim and then the pod: it clones. If this data is the right one, delete the ConfigMap of the record, and apply the manifest again",
			disk.Cluster, disk.Replaces, disk.Replaces)}
	case replaced:
		return Verdict{Because: fmt.Sprintf("the cluster %s goes on as %s since a person ran kvd recover; the data of this volume is from before, "+
			"and may have acknowledged writes that %s lacks. If that was right, and %s serves and has what you need, delete this pod's volume claim and then the pod: "+
			"it clones. If it was a mistake, write %s back into the ConfigMap of the record, as cluster, and remove replaces",
			disk.Cluster, record.Cluster, record.Cluster, record.Founder, disk.Cluster)}
	}
	return Verdict{Because: fmt.Sprintf("the volume has data of the cluster %s, and the cluster record says that this StatefulSet runs %s. "+
		"If that one is right, delete this pod's volume claim and then the pod, and it clones; if this data is, delete the ConfigMap of the record, and apply the manifest again",
		disk.Cluster, record.Cluster)}
}

// course is what a pod does that serves already.
type course int

const (
	// goOn: nothing is wrong, or nothing that is certain.
	goOn course = iota
	// warn: the next start will not serve.
	warn
	// end: the data is served in two places, or the cluster that it goes on from had
	// a quorum after all.
	end
	// yield ends a pod without a quorum: its cluster goes on elsewhere.
	yield
)

// judgeServing decides about data that is served already, and gives the reason. A
// pod ends only if it is certain that it must.
func judgeServing(f Facts) (course, string) {
	because := Judge(f).Because
	switch {
	case because == "":
		return goOn, ""
	case f.Disk.Place != f.Place || f.Record.Cluster == f.Disk.Replaces:
		return end, because
	case f.Record.Replaces == f.Disk.Cluster:
		return yield, because
	}
	return warn, because
}
