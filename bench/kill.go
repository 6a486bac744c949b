package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/test/cluster"
)

const (
	killCallers = 32
	// attemptTimeout is about how long one try of a write may take; after it the
	// caller goes to the next pod. A write that a pod sent to the dead master is
	// never answered, so this bounds how late the next accepted write is seen:
	// with 1 s, etcd's time was 2.01 s in every run.
	attemptTimeout = 100 * time.Millisecond
	// loadBefore and loadAfter are how long the callers write before the kill,
	// and after the first write that was accepted again.
	loadBefore = time.Second
	loadAfter  = 500 * time.Millisecond
	// killTimeout bounds the time without an accepted write.
	killTimeout = time.Minute
)

func killMeasurement() Measurement {
	return Measurement{
		Name:    "kill",
		Summary: "kill -9 of the master under load: time to the next accepted write, and that none was lost",
		About: `32 callers, spread over the three pods, each write one new key after the other; a caller whose write fails, or
is not answered within about 100 ms, tries the same write again on the next pod, the same way in both systems. After a second the
master is ended by kill -9. *Time to the next write* runs from the kill to the first acknowledged write that was also sent after
the kill. Then the pod is started again, and the next run begins when it has caught up. After the last run every write that was
ever acknowledged is read back. The table has the median and the extremes of all runs.`,
		Metrics: []Metric{
			{Key: "gap", Label: "Time to the next write after kill -9 of the master", Format: seconds, Target: Target{valueAtMost, 0.7}},
			{Key: "gap", Label: "– fastest run", Format: seconds, Over: slices.Min[[]float64]},
			{Key: "gap", Label: "– slowest run", Format: seconds, Over: slices.Max[[]float64]},
			{Key: "acknowledged", Label: "Writes acknowledged and read back", Format: count, Over: sum},
			{Key: "lost", Label: "– of them lost or changed", Format: count, Target: Target{valueAtMost, 0}, Over: sum},
		},
		Round: killRound,
	}
}

func killRound(ctx context.Context, lab *Lab, system System) (Round, error) {
	round := Round{}
	err := lab.with(ctx, system, func(c *Cluster) error {
		acknowledged := ledger{}
		for run := range lab.Plan.KillRuns {
			gap, err := killRun(ctx, c, run, acknowledged)
			if err != nil {
				return fmt.Errorf("run %d: %w", run, err)
			}
			round.add("gap", gap.Seconds())
		}
		lost, err := countLost(ctx, c, acknowledged)
		round.add("acknowledged", float64(acknowledged.total()))
		round.add("lost", lost)
		return err
	})
	return round, err
}

// killRun kills the master once and gives the time to the next write.
func killRun(ctx context.Context, c *Cluster, run int, acknowledged ledger) (time.Duration, error) {
	clients, closeAll, err := c.DialMany(killCallers*podCount, 0, 1, 2)
	if err != nil {
		return 0, err
	}
	defer closeAll()
	w := writers{run: run, killed: make(chan struct{}), first: make(chan time.Time, 1)}
	load, stop := context.WithCancel(ctx)
	defer stop()
	counts := make([]int, killCallers)
	var wait sync.WaitGroup
	for i := range counts {
		wait.Go(func() { counts[i] = w.write(load, i, clients[i*podCount:(i+1)*podCount]) })
	}
	leader, gap, err := w.kill(ctx, c)
	if err == nil {
		err = pause(ctx, loadAfter)
	}
	stop()
	wait.Wait()
	if err != nil {
		return 0, err
	}
	for i, n := range counts {
		acknowledged[[2]int{run, i}] = n
	}
	if err := c.Pods[leader].Start(); err != nil {
		return 0, err
	}
	return gap, c.WaitServing(ctx)
}

// writers are the callers of one run.
type writers struct {
	run    int
	killed chan struct{}  // closed when the master is gone
	first  chan time.Time // when the first write sent after that was acknowledged
	found  atomic.Bool
}

// kill ends the master after a while and waits for the next accepted write. It
// asks who leads just before: under load it may no longer be who it was.
func (w *writers) kill(ctx context.Context, c *Cluster) (leader int, gap time.Duration, err error) {
	if err := pause(ctx, loadBefore); err != nil {
		return 0, 0, err
	}
	if leader, err = c.Leader(ctx); err != nil {
		return 0, 0, err
	}
	at := time.Now()
	cluster.Kill(c.Pods[leader])
	close(w.killed)
	select {
	case first := <-w.first:
		return leader, first.Sub(at), nil
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	case <-time.After(killTimeout):
		return 0, 0, fmt.Errorf("no write was accepted for %s after the kill", killTimeout)
	}
}

// write writes one key after the other until the context ends, and gives the
// number of writes that were acknowledged: keys 0 to n-1. A caller begins at a
// pod of its own and goes on to the next after each failure.
func (w *writers) write(ctx context.Context, caller int, pods []Client) int {
	random := rand.New(rand.NewPCG(uint64(w.run), uint64(caller)))
	at := caller % len(pods)
	for n := 0; ; {
		afterKill := isClosed(w.killed)
		// Spread, so that the callers' tries do not come all at one time.
		timeout := attemptTimeout/2 + time.Duration(random.Int64N(int64(attemptTimeout)))
		attempt, cancel := context.WithTimeout(ctx, timeout)
		key := killKey(w.run, caller, n)
		err := pods[at].Put(attempt, key, killValue(key))
		cancel()
		if err == nil {
			n++
			if afterKill && w.found.CompareAndSwap(false, true) {
				w.first <- time.Now()
			}
			continue
		}
		at = (at + 1) % len(pods)
		if pause(ctx, 5*time.Millisecond) != nil {
			return n
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

const killPrefix = "kill-"

func killKey(run, caller, n int) []byte {
	return fmt.Appendf(nil, killPrefix+"%03d-%03d-%08d", run, caller, n)
}

// killValue is the only value that a key is ever given.
func killValue(key []byte) []byte {
	var seed uint64
	for _, b := range key {
		seed = seed*131 + uint64(b)
	}
	return randomValue(rand.New(rand.NewPCG(seed, 5)))
}

// ledger says how many writes of a run's caller were acknowledged.
type ledger map[[2]int]int

func (l ledger) total() int {
	total := 0
	for _, n := range l {
		total += n
	}
	return total
}

// countLost reads everything back, from each pod, and gives the largest number
// of acknowledged writes that a pod does not have.
func countLost(ctx context.Context, c *Cluster, acknowledged ledger) (float64, error) {
	most := 0
	for i := range c.Pods {
		client, closer, err := c.Dial(i)
		if err != nil {
			return 0, err
		}
		kept := 0
		err = client.Scan(ctx, []byte(killPrefix), func(p Pair) error {
			var run, caller, n int
			if _, err := fmt.Sscanf(string(p.Key), killPrefix+"%03d-%03d-%08d", &run, &caller, &n); err != nil {
				return fmt.Errorf("key %q: %w", p.Key, err)
			}
			if n < acknowledged[[2]int{run, caller}] && bytes.Equal(p.Value, killValue(p.Key)) {
				kept++
			}
			return nil
		})
		closer()
		if err != nil {
			return 0, err
		}
		most = max(most, acknowledged.total()-kept)
	}
	return float64(most), nil
}
