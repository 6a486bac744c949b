package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/volume"
)

// foundWait bounds the wait for a process that still has the directory open.
const foundWait = 2 * time.Second

// Initialize makes dir, which must hold no data, the disk of a new cluster's only
// member: the pod. write puts a database there whose membership is the given
// one, at index 1 and term 1. It is how a backup becomes a cluster with a
// history of its own; the other pods join it with empty disks.
func Initialize(ctx context.Context, dir, pod string, write func(configuration []byte) error) (clusterID string, member replication.MemberID, err error) {
	if !replication.ValidPod(pod) {
		return "", "", fmt.Errorf("replication: the pod's name %q is not <statefulset>-<ordinal>, a DNS label as kv-0 is", pod)
	}
	v, err := volume.Open(ctx, dir, pod, foundWait, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	id := v.Identity()
	if id.Stage != volume.Empty {
		return "", "", fmt.Errorf("replication: %s has the data of %s: choose an empty directory", dir, id.MemberID)
	}
	self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(id.MemberID), Address: raft.ServerAddress(id.MemberID)}
	if err := write(raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}})); err != nil {
		return "", "", err
	}
	clusterID = uuid.NewString()
	// Last: only now is there a cluster.
	err = v.Update(func(id *volume.Identity) {
		id.ClusterID, id.Stage = clusterID, volume.Data
	})
	return clusterID, replication.MemberID(id.MemberID), err
}
