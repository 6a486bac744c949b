package process

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/test/cluster"
)

// writers put without pause through the Go client, and note the longest time in
// which none of their writes was acknowledged.
type writers struct {
	client *client.Client
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	last   time.Time
	gap    time.Duration
	failed error
	count  int
}

func startWriters(t *testing.T, n int, endpoints ...string) *writers {
	t.Helper()
	c, err := client.New(client.Options{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{client: c, cancel: cancel, last: time.Now()}
	for i := range n {
		w.all.Go(func() { w.write(ctx, fmt.Sprintf("writer-%d", i)) })
	}
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *writers) write(ctx context.Context, key string) {
	for ctx.Err() == nil {
		_, err := w.client.Put(ctx, key, []byte("value"))
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		if err != nil {
			w.failed = err
		} else {
			now := time.Now()
			w.gap, w.last, w.count = max(w.gap, now.Sub(w.last)), now, w.count+1
		}
		w.mu.Unlock()
	}
}

// longest is the longest gap since the last call.
func (w *writers) longest() (gap time.Duration, failed error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gap, failed = max(w.gap, time.Since(w.last)), w.failed
	w.gap, w.failed = 0, nil
	return gap, failed
}

func (w *writers) stop() {
	w.cancel()
	w.all.Wait()
	w.client.Close() //nolint:errcheck // Nothing is under way.
}

// stopGap is what a planned stop of the master may cost: 50 ms on a machine that
// is doing nothing else, and more here, where tests share it.
const stopGap = 250 * time.Millisecond

// S22, S23: a roll-out, from the highest ordinal down. Each stop of the master
// costs one short gap and no failed write, and the baton changes hands once,
// twice at most when the highest ordinal had it.
//
// Scenario: S22, S23
func TestRollOut(t *testing.T) {
	c := cluster.Run(t, pods)
	all, master := c.Pods, whole(t, c)
	w := startWriters(t, 12, c.Endpoints()...)
	first, changes := master, 0
	w.longest()
	for i := len(all) - 1; i >= 0; i-- {
		before := whole(t, c)
		w.longest()
		if err := cluster.Stop(all[i]); err != nil {
			t.Error(err)
		}
		cluster.Eventually(t, "a write", cluster.Patience, func(ctx context.Context) error {
			_, err := w.client.Put(ctx, "after", nil)
			return err
		})
		gap, failed := w.longest()
		t.Logf("stopping kv-%d, the master being kv-%d: longest gap %s", i, before, gap)
		if gap > stopGap || failed != nil {
			t.Errorf("the writes stood still for %s; an error: %v", gap, failed)
		}
		start(t, all[i])
		if master = whole(t, c); master != before {
			changes++
		}
		if gap, failed := w.longest(); gap > stopGap || failed != nil {
			t.Errorf("at the start the writes stood still for %s; an error: %v", gap, failed)
		}
	}
	most := 1
	if first == len(all)-1 {
		most = 2
	}
	if changes > most {
		t.Errorf("the baton changed hands %d times; kv-%d had it", changes, first)
	}
}
