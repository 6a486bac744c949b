package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"strconv"
)

// Founding is what is known when a pod without data asks whether it founds the
// cluster, and there is no record.
type Founding struct {
	// Set is the StatefulSet, Pod the one that asks.
	Set, Pod string
	Ordinals Ordinals
	// Empty are the pods that have said that they have no data.
	Empty []string
	// Used are the other pods that have a volume to which something may have been
	// written, and those that were scaled away.
	Used []string
}

// Refusal says why the pod must not found the cluster; empty: it may. The record may
// be lost together with the first pod's volume, so no other pod may have data.
func (f Founding) Refusal() string {
	if f.Ordinals.Stopped != "" {
		return "no cluster is founded now: " + f.Ordinals.Stopped
	}
	if first := f.pod(f.Ordinals.Start); first != f.Pod {
		return fmt.Sprintf("only %s may found the cluster", first)
	}
	for _, name := range f.Used {
		if !f.clear(name) {
			return fmt.Sprintf("%s has a volume, and has not said that it is empty: it may have data of a cluster whose record is lost. "+
				"If there is none, delete its claim and the pod", name)
		}
	}
	return ""
}

// clear says that a pod certainly has no data of another cluster.
func (f Founding) clear(pod string) bool { return pod == f.Pod || slices.Contains(f.Empty, pod) }

func (f Founding) pod(ordinal int) string { return f.Set + "-" + strconv.Itoa(ordinal) }

// maxGap is how many claims may be missing between those of pods that were scaled
// away: RBAC can give the claims by name, not all of this StatefulSet.
const maxGap = 4

// usedBeside is what Founding.Used is about, up to the first pod that forbids to found.
func (p *Pod) usedBeside(ctx context.Context, set *statefulSet, f Founding) ([]string, error) {
	first, end := f.Ordinals.Start, f.Ordinals.Start+f.Ordinals.Replicas
	for _, step := range []int{1, -1} {
		missing := 0
		for o := first + min(step, 0); o >= 0 && missing < maxGap; o += step {
			if name := f.pod(o); !f.clear(name) {
				if has, err := p.mayHaveData(ctx, set, name); has || err != nil {
					return []string{name}, err
				}
			}
			if step < 0 || o >= end {
				missing++
			}
		}
	}
	return nil, nil
}
