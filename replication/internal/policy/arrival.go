package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/batondb/baton/replication"
)

// What a pod without data does.
const (
	Wait       = "wait"
	Initialize = "initialize"
	Clone      = "clone"
)

// Sign is what is said outside, in Kubernetes, about a pod without data.
type Sign struct {
	// Cluster is the one it belongs to; Founds: it is the one that founds it.
	Cluster string
	Founds  bool
	// Missing is empty, or says why nothing can be said.
	Missing string
}

// Arrival is what a pod without data knows.
type Arrival struct {
	Pod string
	// Cluster is the one that its disk has met; empty: it is fresh.
	Cluster string
	// Peers is the list that a person has made of all pods; empty in Kubernetes.
	Peers []string
	// Candidates are the other pods that may exist, in the order in which a clone
	// asks them.
	Candidates []string
	Wanted     Wanted
	Seen       Seen
	// Absent are the pods that do not exist.
	Absent map[string]bool
	// Sign is nil when nothing outside is asked.
	Sign *Sign
}

// Arriving is what a pod without data does.
type Arriving struct {
	Do string
	// Cluster is the one to initialize, or to clone; empty: a new one.
	Cluster string
	// Meet: the disk is of the cluster from now on, and never founds another.
	Meet bool
	// Cold: the pod is ready, so that the next one is created, see [Cold].
	Cold bool
	// Master keeps its log while the pod clones, from the first of Sources that can.
	Master  string
	Sources []string
	// After is the pod before this one, if it is about to have the data: it is
	// given some time for that, and comes first among the sources then.
	After   string
	Because string
}

// Asks says whether the word from outside matters. The pods that have data of the
// disk's own cluster come before it.
func (a Arrival) Asks() bool { return !a.Seen.Holds(a.Cluster) }

// Fresh says whether the pod may be told to found a cluster: its disk has met none,
// and no pod that answers has data. One that was scaled away may still run, and is in
// no list of those that should exist.
func (a Arrival) Fresh() bool {
	for _, p := range a.Seen {
		if p.HasData {
			return false
		}
	}
	return a.Cluster == ""
}

// Unwanted says that the pod's ordinal should certainly not exist: it asks nobody.
func (a Arrival) Unwanted() bool { return a.Wanted.Excludes(replication.Ordinal(a.Pod)) }

// Decide says what the pod does. Who has once met a cluster never founds another;
// and a cluster is founded only when it is certain that there is none.
func (a Arrival) Decide() Arriving {
	if a.Unwanted() {
		// Ready: with an order of pods, Kubernetes stops none above one that is not.
		return Arriving{Do: Wait, Cold: true, Because: "its ordinal is not wanted: it waits to be stopped"}
	}
	cluster, because := a.belongs()
	founds, cold := false, false
	if s := a.Sign; s != nil && a.Asks() {
		switch {
		case s.Missing == "":
			cluster, founds, because = s.Cluster, s.Founds && !a.Seen.Holds(s.Cluster), ""
		case cluster == "":
			because = s.Missing
			// The pods that may have data may be created only once this one is ready.
			cold = a.comesFirst() && a.cold().OthersAbsent()
		}
	}
	meet := cluster != a.Cluster && a.Seen.Holds(cluster)
	switch {
	case because != "":
		return Arriving{Do: Wait, Meet: meet, Cold: cold, Because: because}
	case founds:
		return Arriving{Do: Initialize, Cluster: cluster, Because: "the cluster record names it as the founder"}
	case cluster == "":
		if because := a.mayBootstrap(); because != "" {
			return Arriving{Do: Wait, Because: because}
		}
		return Arriving{Do: Initialize, Because: "it comes first, and every peer has said that it is empty"}
	}
	return a.clone(Arriving{Cluster: cluster, Meet: meet, Cold: a.cold().OthersAbsent()})
}

// belongs says which cluster the pod is of, by its peers' word: the one it has
// heard of, or the one that goes on from that, or the only one there is.
func (a Arrival) belongs() (cluster, because string) {
	if a.Cluster != "" {
		for _, p := range a.Seen {
			if p.HasData && p.Replaces == a.Cluster && !a.Seen.Holds(a.Cluster) {
				return p.Cluster, ""
			}
		}
		return a.Cluster, ""
	}
	var clusters []string
	for _, p := range a.Seen {
		if p.Cluster != "" && !slices.Contains(clusters, p.Cluster) {
			clusters = append(clusters, p.Cluster)
		}
	}
	if len(clusters) > 1 {
		slices.Sort(clusters)
		return "", "its peers belong to different clusters: " + strings.Join(clusters, ", ")
	}
	return strings.Join(clusters, ""), ""
}

// mayBootstrap says what forbids to found a cluster: only the lowest ordinal may,
// and only when every peer has said that it has nothing. Silence proves nothing:
// behind it there may be a cluster.
func (a Arrival) mayBootstrap() (because string) {
	if len(a.Peers) == 0 {
		return "no pod with data answers, and nothing permits this one to found a cluster"
	}
	if !slices.Contains(a.Peers, a.Pod) {
		return "it is not in its own list of peers: add " + a.Pod
	}
	if first := slices.MinFunc(a.Peers, replication.ByOrdinal); first != a.Pod {
		return fmt.Sprintf("no pod with data answers, and only %s may found the cluster", first)
	}
	var silent []string
	for _, pod := range a.Peers {
		if p := a.Seen[pod]; pod != a.Pod && (p == nil || !p.Empty) {
			silent = append(silent, pod)
		}
	}
	if len(silent) > 0 {
		return "to found the cluster every peer must have said that it is empty; missing: " + strings.Join(silent, ", ")
	}
	return ""
}

// comesFirst says that no pod of a lower ordinal should exist.
func (a Arrival) comesFirst() bool {
	own := replication.Ordinal(a.Pod)
	return a.Wanted != nil && a.Wanted(own) && (own == 0 || !a.Wanted(own-1))
}

func (a Arrival) cold() Cold {
	return Cold{Wanted: a.Wanted, Candidates: a.Candidates, Seen: a.Seen, Absent: a.Absent}
}

// clone says from whom: the pod before this one first, and the master last, for it
// has other work.
func (a Arrival) clone(to Arriving) Arriving {
	of := Seen{}
	for pod, p := range a.Seen {
		if p.HasData && p.Cluster == to.Cluster {
			of[pod] = p
		}
	}
	to.Do = Wait
	if len(of) == 0 {
		to.Because = "no pod with data of its cluster " + to.Cluster + " answers"
		return to
	}
	master, ok := of.Master()
	if !ok {
		to.Because = "the cluster has no master now"
		return to
	}
	sources := CloneSources(a.Candidates, of, master)
	if len(sources) == 0 {
		to.Because = "no pod has a database that can be cloned"
		return to
	}
	to.Do, to.Master, to.Sources, to.After = Clone, master, sources, a.after(to.Cluster)
	to.Because = fmt.Sprintf("%s is the master of its cluster %s, and %s gives a clone", master, to.Cluster, sources[0])
	if to.After != "" {
		to.Because += "; " + to.After + ", the pod before it, has some time to be the source"
	}
	return to
}

// after is the nearest pod before this one that answers, if it may soon have a
// database of the cluster that can be cloned. Pods that start at one time would all
// clone the founder otherwise, which is the master.
func (a Arrival) after(cluster string) string {
	for _, pod := range a.Candidates {
		p := a.Seen[pod]
		switch {
		case replication.ByOrdinal(pod, a.Pod) > 0:
			return ""
		case p == nil:
		case p.Cloneable || p.Condemned || p.Cluster != "" && p.Cluster != cluster:
			return ""
		default:
			return pod
		}
	}
	return ""
}

// CloneSources orders those who can give a clone; the master comes last.
func CloneSources(candidates []string, seen Seen, master string) []string {
	var sources []string
	for _, pod := range candidates {
		if p := seen[pod]; p != nil && p.Cloneable && pod != master {
			sources = append(sources, pod)
		}
	}
	if p := seen[master]; p != nil && p.Cloneable {
		sources = append(sources, master)
	}
	return sources
}

// NearestBelow orders pods as a clone asks them: the one before a pod, those before
// that, and then those above. The pod itself is left out.
func NearestBelow(own string, pods []string) []string {
	pods = slices.Clone(pods)
	slices.SortFunc(pods, replication.ByOrdinal)
	pods = slices.Compact(pods)
	below, _ := slices.BinarySearchFunc(pods, own, replication.ByOrdinal)
	slices.Reverse(pods[:below])
	return slices.DeleteFunc(pods, func(pod string) bool { return pod == own })
}
