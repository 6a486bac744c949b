package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/batondb/baton/test/history"
	"github.com/batondb/baton/test/workload"
)

// nemesis runs faults, drawn from the seed.
type nemesis struct {
	cluster *Cluster
	load    *workload.Workload
	log     func(format string, args ...any)
	rng     *rand.Rand // Of the fault that runs.
	ran     map[string]int
	broken  []history.Violation
}

// run runs faults until ctx ends. Which fault is the n-th, and what it draws,
// depends on the seed and on n alone.
func (n *nemesis) run(ctx context.Context, seed uint64, only string) {
	rows := selected(only)
	total := 0
	for _, f := range rows {
		total += f.Weight
	}
	for i := uint64(1); ctx.Err() == nil; i++ {
		n.rng = rand.New(rand.NewPCG(seed, 1<<32+i))
		pick, f := n.rng.IntN(total), rows[0]
		for _, f = range rows {
			if pick -= f.Weight; pick < 0 {
				break
			}
		}
		_ = workload.Pause(ctx, n.upTo(700*time.Millisecond))
		if ctx.Err() != nil {
			return
		}
		n.note("fault %d: %s", i, f.Name)
		n.ran[f.Name]++
		if err := f.Run(ctx, n); err != nil {
			n.note("%s: %v", f.Name, err)
			n.broken = append(n.broken, history.Violation{Check: "fault: " + f.Name, Text: err.Error()})
		}
		if n.rng.IntN(2) == 0 { // The next one comes on top of this one otherwise.
			if err := n.cluster.WaitReady(ctx, readyTimeout); n.unlessOver(ctx, err) != nil {
				n.note("after %s: %v", f.Name, err)
				n.broken = append(n.broken, history.Violation{Check: "ready after " + f.Name, Text: err.Error()})
			}
		}
	}
}

// selected are the rows whose names contain only; all when it is empty.
func selected(only string) []Fault {
	var rows []Fault
	for _, f := range faults {
		if strings.Contains(f.Name, only) {
			rows = append(rows, f)
		}
	}
	return rows
}

// unlessOver forgets an error that comes of the end of the run.
func (n *nemesis) unlessOver(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

func (n *nemesis) note(format string, args ...any) {
	n.log("%10s  %s", time.Duration(n.load.Recorder.Now()).Round(time.Millisecond), fmt.Sprintf(format, args...))
}

func (n *nemesis) any() *Pod { return n.cluster.Pods[n.rng.IntN(len(n.cluster.Pods))] }

func (n *nemesis) some(count int) []*Pod {
	var pods []*Pod
	for _, i := range n.rng.Perm(len(n.cluster.Pods))[:count] {
		pods = append(pods, n.cluster.Pods[i])
	}
	return pods
}

// master is the master, or any pod when there is none.
func (n *nemesis) master(ctx context.Context) *Pod {
	fallback := n.any() // Always drawn: what comes next must not depend on it.
	if master := n.cluster.Master(ctx); master != nil {
		return master
	}
	return fallback
}

func (n *nemesis) places() []string {
	var all []string
	for _, p := range n.cluster.Pods {
		all = append(all, p.Name)
	}
	return all
}

func (n *nemesis) upTo(d time.Duration) time.Duration { return n.between(0, d) }

func (n *nemesis) between(low, high time.Duration) time.Duration {
	return low + time.Duration(n.rng.Int64N(int64(high-low)))
}

func names(pods []*Pod) string {
	var all []string
	for _, p := range pods {
		all = append(all, p.Name)
	}
	return strings.Join(all, " and ")
}
