package node

import (
	"context"
	"errors"
	"log/slog"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/volume"
)

func diskOf(id volume.Identity) replication.Disk {
	return replication.Disk{
		Member: replication.MemberID(id.MemberID), Cluster: id.ClusterID, Replaces: id.Replaces,
		Place: id.Place, Successor: id.Successor, Condemned: id.Condemned, HasData: id.Stage != volume.Empty && id.Retired == "",
	}
}

// Examine reads what dir says of itself, even while a process has it open. A
// directory that was never used is the zero Disk.
func Examine(dir string) (replication.Disk, error) {
	id, err := volume.Read(dir)
	return diskOf(id), err
}

// Disk is what this node's directory says of itself.
func (n *Node) Disk() replication.Disk { return diskOf(n.volume.Identity()) }

// RecordPlace notes the place of a disk that has not been told one.
func (n *Node) RecordPlace(place string) error {
	return n.volume.Update(func(id *volume.Identity) {
		if id.Place == "" {
			id.Place = place
		}
	})
}

// SetAside gives up the data in dir in favour of a cluster that goes on from
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
