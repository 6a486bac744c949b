package replication

import (
	"context"
	"errors"
	"log/slog"

	"github.com/google/uuid"

	"github.com/batondb/baton/replication/internal/volume"
)

// Disk is what a data directory says of itself.
type Disk struct {
	Member  MemberID
	Cluster string
	// Replaces is the cluster that Cluster goes on from; mostly empty.
	Replaces string
	// Place is where the disk belongs; empty: it has not been told.
	Place string
	// Successor is the cluster whose history the data is to begin: what Recover has
	// begun and not ended. Mostly empty.
	Successor string
	// Condemned says why the data is of no use, see Node.Reclone; mostly empty.
	Condemned string
	// HasData is false of a disk that has an identity at most, or data that the
	// next Open sets aside.
	HasData bool
}

func diskOf(id volume.Identity) Disk {
	return Disk{
		Member: MemberID(id.MemberID), Cluster: id.ClusterID, Replaces: id.Replaces,
		Place: id.Place, Successor: id.Successor, Condemned: id.Condemned, HasData: id.Stage != volume.Empty && id.Retired == "",
	}
}

// Examine reads what dir says of itself, also while a process has it open. A
// directory that was never used is the zero Disk.
func Examine(dir string) (Disk, error) {
	id, err := volume.Read(dir)
	return diskOf(id), err
}

// Disk is what this node's directory says of itself.
func (n *Node) Disk() Disk { return diskOf(n.volume.Identity()) }

// RecordPlace notes the place of a disk that has not been told one.
func (n *Node) RecordPlace(place string) error {
	return n.volume.Update(func(id *volume.Identity) {
		if id.Place == "" {
			id.Place = place
		}
	})
}

// AdoptedCluster is the cluster that a copy of cluster becomes in a place: the
// same one on each of its disks, and never the original.
func AdoptedCluster(cluster, place string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("baton adopt "+cluster+" "+place)).String()
}

// SetAside gives up the data in dir for that of a cluster, which goes on from
// another copy: the pod's next start sets it aside and clones. The disk is the
// cluster's from now on: it must not join what it was copied from. No process may
// have dir open.
func SetAside(ctx context.Context, dir, pod, cluster, because string) error {
	v, err := volume.Open(ctx, dir, pod, foundWait, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	err = v.Update(func(id *volume.Identity) { id.ClusterID, id.Retired = cluster, because })
	return errors.Join(err, v.Close())
}
