package replication

import (
	"context"
	"fmt"
	"slices"
	"strings"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/internal/volume"
	"github.com/google/uuid"
)

// Arrive returns when there is a database to open: it was there, or this pod
// has founded the cluster, or it has received a clone. It waits as long as
// neither is possible, and says why in the log and in Status.
func (n *Node) Arrive(ctx context.Context) error {
	defer n.progress.wait("")
	var name nameWatch
	for {
		if n.volume.Identity().Stage != volume.Empty {
			return nil
		}
		because, err := n.arrive(ctx)
		if err != nil {
			return err
		}
		if because != "" {
			name.look(n)
			if n.progress.wait(because) {
				n.log.Info("this pod has no data, and waits", "because", because)
			}
			sleep(ctx, n.opts.Timing.Retry)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// arrive makes one attempt, and says what is missing.
func (n *Node) arrive(ctx context.Context) (because string, err error) {
	seen := n.inspect(ctx, n.neighbours())
	var clusters []string
	for _, s := range seen {
		if s.ClusterId != "" && !slices.Contains(clusters, s.ClusterId) {
			clusters = append(clusters, s.ClusterId)
		}
	}
	own := n.volume.Identity().ClusterID
	switch {
	case len(clusters) > 1:
		return "its peers belong to different clusters: " + strings.Join(clusters, ", "), nil
	case len(clusters) == 1:
		if own == "" {
			// Before a byte is received: a pod that has once heard of a
			// cluster never founds another.
			if err := n.volume.Update(func(id *volume.Identity) { id.ClusterID = clusters[0] }); err != nil {
				return "", err
			}
		}
		return n.clone(ctx, seen)
	case own != "":
		return "no pod of its cluster answers", nil
	}
	if because := n.mayBootstrap(ctx, seen); because != "" {
		return because, nil
	}
	cluster := uuid.NewString()
	n.log.Info("this pod founds the cluster", "cluster", cluster)
	return "", n.volume.Update(func(id *volume.Identity) { id.ClusterID, id.Stage = cluster, volume.Bootstrapping })
}

// mayBootstrap says what forbids to found a cluster: only the lowest ordinal
// may, and only when every peer has said that it has nothing. Silence proves
// nothing: behind it there may be a cluster.
func (n *Node) mayBootstrap(ctx context.Context, seen map[string]*peerv1.InspectResponse) (because string) {
	if len(n.opts.Peers) == 0 {
		if n.opts.BootstrapPermission == nil {
			return "no pod with data answers, and nothing permits this one to found a cluster"
		}
		allowed, err := n.opts.BootstrapPermission(ctx)
		switch {
		case err != nil:
			return "whether it may found the cluster cannot be found out: " + err.Error()
		case !allowed:
			return "it may not found the cluster, and no pod with data answers"
		}
		return ""
	}
	if !slices.Contains(n.opts.Peers, n.opts.Name) {
		return "it is not in its own list of peers: add " + n.opts.Name
	}
	if first := lowest(n.opts.Peers); first != n.opts.Name {
		return fmt.Sprintf("no pod with data answers, and only %s may found the cluster", first)
	}
	var silent []string
	for _, p := range n.opts.Peers {
		if s := seen[p]; p != n.opts.Name && (s == nil || !s.Empty) {
			silent = append(silent, p)
		}
	}
	if len(silent) > 0 {
		return "to found the cluster every peer must have said that it is empty; missing: " + strings.Join(silent, ", ")
	}
	return ""
}
