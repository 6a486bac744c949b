package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/batondb/baton/replication/internal/volume"
	"github.com/google/uuid"
)

// Disk is what a data directory says of itself.
type Disk struct {
	Member  MemberID
	Cluster string
	// Replaces is the cluster that Cluster goes on from; mostly empty.
	Replaces string
	// Place is where the disk belongs; empty: it has not been told.
	Place string
	// Condemned says why the data is of no use, see Node.Reclone; mostly empty.
	Condemned string
	// HasData is false of a disk that has an identity at most, or data that the
	// next Open sets aside.
	HasData bool
}

func diskOf(id volume.Identity) Disk {
	return Disk{
		Member: MemberID(id.MemberID), Cluster: id.ClusterID, Replaces: id.Replaces,
		Place: id.Place, Condemned: id.Condemned, HasData: id.Stage != volume.Empty && id.Retired == "",
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

// SettleIn notes the place of a disk that has not been told one.
func (n *Node) SettleIn(place string) error {
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

// Adopt makes the data in dir, a copy that was brought to another place, that
// place's own: a cluster of another uuid, which never talks to the original. No
// process may have dir open. A disk that belongs to the place stays as it is.
func Adopt(ctx context.Context, dir, pod, place string) (Disk, error) {
	v, err := volume.Open(ctx, dir, pod, foundWait, slog.New(slog.DiscardHandler))
	if err != nil {
		return Disk{}, err
	}
	id := v.Identity()
	switch {
	case id.Stage == volume.Empty:
		err = fmt.Errorf("replication: %s has no data to adopt", dir)
	case id.Place != place:
		err = v.Update(func(id *volume.Identity) {
			id.Replaces, id.ClusterID, id.Place = id.ClusterID, AdoptedCluster(id.ClusterID, place), place
		})
	}
	return diskOf(v.Identity()), errors.Join(err, v.Close())
}
