package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/internal/member"
	"github.com/batondb/baton/replication/internal/volume"
)

// Arrive returns when there is a database to open: it was there, or this pod
// has founded the cluster, or it has received a clone. It waits as long as
// neither is possible, and says why in the log and in Status.
func (n *Node) Arrive(ctx context.Context) error {
	defer n.progress.wait("")
	defer n.progress.markCold(false)
	var name nameWatch
	pause := n.opts.Timing.Retry
	if n.opts.Founding != nil {
		pause *= 2 // who is asked serves others as well
	}
	for {
		if n.volume.Identity().Stage != volume.Empty {
			return nil
		}
		because, err := n.arrive(ctx)
		if err != nil {
			return err
		}
		if because != "" {
			name.look(n, n.opts.Name)
			if n.progress.wait(because) {
				n.logger.Info("this pod has no data, and waits", "because", because)
			}
			sleep(ctx, pause)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// arrive makes one attempt, and says what is missing.
func (n *Node) arrive(ctx context.Context) (because string, err error) {
	if n.unwanted() {
		// Ready: with an order of pods, Kubernetes stops none above one that is not.
		n.progress.markCold(true)
		return "its ordinal is not wanted: it waits to be stopped", nil
	}
	seen := n.inspect(ctx, n.candidatePods())
	own := n.volume.Identity().ClusterID
	cluster, because := belongs(own, seen)
	founder := false
	if n.opts.Founding != nil && !holds(seen, own) {
		switch told, founds, err := n.opts.Founding(ctx, n.MemberID(), own == "", empty(seen)); {
		case err == nil:
			cluster, founder, because = told, founds && !holds(seen, told), ""
		case cluster == "":
			because = err.Error()
			// The pods that may have data may be created only once this one is ready.
			n.progress.markCold(n.comesFirst() && n.othersAbsent(seen))
		}
	}
	if cluster != own && holds(seen, cluster) {
		// Before a byte is received: a pod that has once met a cluster never
		// founds another.
		if err := n.volume.Update(func(id *volume.Identity) { id.ClusterID = cluster }); err != nil {
			return "", err
		}
	}
	switch {
	case because != "":
		return because, nil
	case founder:
		return "", n.found(cluster)
	case cluster == "":
		if because := n.mayBootstrap(seen); because != "" {
			return because, nil
		}
		return "", n.found(uuid.NewString())
	}
	n.progress.markCold(n.othersAbsent(seen))
	maps.DeleteFunc(seen, func(_ string, s *peerv1.InspectResponse) bool { return s.ClusterId != cluster || !s.HasData })
	if len(seen) == 0 {
		return "no pod with data of its cluster " + cluster + " answers", nil
	}
	return n.clone(ctx, seen)
}

// comesFirst says that no pod of a lower ordinal should exist.
func (n *Node) comesFirst() bool {
	covers, known := n.expected()
	own := Ordinal(n.opts.Name)
	return known && covers(own) && (own == 0 || !covers(own-1))
}

// empty are the pods that say that they have no data and have met no cluster.
func empty(seen map[string]*peerv1.InspectResponse) (pods []string) {
	for pod, s := range seen {
		if s.Empty {
			pods = append(pods, pod)
		}
	}
	return pods
}

// unwanted says that this pod's ordinal should certainly not exist.
func (n *Node) unwanted() bool {
	covers, known := n.expected()
	return known && !covers(Ordinal(n.opts.Name))
}

func (n *Node) found(cluster string) error {
	n.logger.Info("this pod founds the cluster", "cluster", cluster)
	return n.volume.Update(func(id *volume.Identity) { id.ClusterID, id.Stage = cluster, volume.Bootstrapping })
}

// holds says whether a pod has data of a cluster.
func holds(seen map[string]*peerv1.InspectResponse, cluster string) bool {
	for _, s := range seen {
		if s.HasData && s.ClusterId == cluster {
			return true
		}
	}
	return false
}

// belongs says which cluster a pod without data is of, by its peers' word: the
// one it has heard of, or the one that goes on from that, or the only one there is.
func belongs(own string, seen map[string]*peerv1.InspectResponse) (cluster, because string) {
	if own != "" {
		for _, s := range seen {
			if s.HasData && s.ReplacesClusterId == own && !holds(seen, own) {
				return s.ClusterId, ""
			}
		}
		return own, ""
	}
	var clusters []string
	for _, s := range seen {
		if s.ClusterId != "" && !slices.Contains(clusters, s.ClusterId) {
			clusters = append(clusters, s.ClusterId)
		}
	}
	if len(clusters) > 1 {
		slices.Sort(clusters)
		return "", "its peers belong to different clusters: " + strings.Join(clusters, ", ")
	}
	return strings.Join(clusters, ""), ""
}

// mayBootstrap says what forbids to found a cluster: only the lowest ordinal
// may, and only when every peer has said that it has nothing. Silence proves
// nothing: behind it there may be a cluster.
func (n *Node) mayBootstrap(seen map[string]*peerv1.InspectResponse) (because string) {
	if len(n.opts.Peers) == 0 {
		return "no pod with data answers, and nothing permits this one to found a cluster"
	}
	if !slices.Contains(n.opts.Peers, n.opts.Name) {
		return "it is not in its own list of peers: add " + n.opts.Name
	}
	if first := slices.MinFunc(n.opts.Peers, member.ByOrdinal); first != n.opts.Name {
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

// clone receives the database from the best source, or says what is missing.
func (n *Node) clone(ctx context.Context, seen map[string]*peerv1.InspectResponse) (because string, err error) {
	master, ok := masterOf(seen)
	if !ok {
		return "the cluster has no master now", nil
	}
	sources := cloneSources(n.candidatePods(), seen, master)
	if len(sources) == 0 {
		return "no pod has a database that can be cloned", nil
	}
	r := &cloneReceiver{
		opts: &n.opts, logger: n.logger, member: n.MemberID(), conn: n.calls.conn, progress: &n.progress,
		master: func(ctx context.Context) (string, bool) { return masterOf(n.inspect(ctx, n.candidatePods())) },
	}
	if because, err := r.receive(ctx, master, sources); because != "" || err != nil {
		return because, err
	}
	return "", n.volume.Update(func(id *volume.Identity) { id.Stage = volume.Data })
}

// cloneSources orders those who can give a clone; the master comes last, for
// it has other work.
func cloneSources(candidates []string, seen map[string]*peerv1.InspectResponse, master string) []string {
	var sources []string
	for _, pod := range candidates {
		if s := seen[pod]; s != nil && s.Cloneable && pod != master {
			sources = append(sources, pod)
		}
	}
	if s := seen[master]; s != nil && s.Cloneable {
		sources = append(sources, master)
	}
	return sources
}
