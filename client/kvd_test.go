package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	kvd "github.com/batondb/baton/test/cluster"
)

// The client against what it is for: three kvd processes, of which the master
// is killed, and stopped for a while, under load.

// startKvd starts three pods, and returns a client that was told one of them.
func startKvd(t *testing.T) (*kvd.Cluster, *client.Client) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short")
	}
	pods := kvd.Run(t, 3)
	c, err := client.New(client.Options{Endpoints: pods.Endpoints()[:1]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return pods, c
}

// awaitWhole waits until all pods are ready, and returns the master.
func awaitWhole(t *testing.T, pods *kvd.Cluster) *kvd.Pod {
	t.Helper()
	if err := pods.AwaitWhole(t.Context(), kvd.Patience); err != nil {
		t.Fatal(err)
	}
	return pods.AwaitMaster(t)
}

// load writes to keys of its own from several callers, plain and batched, until
// stop, which checks that each write was applied exactly once.
type load struct {
	c       *client.Client
	stopped atomic.Bool
	tasks   sync.WaitGroup
	mu      sync.Mutex // guards what follows
	writes  map[string]int64
	slowest time.Duration
}

func startLoad(t *testing.T, c *client.Client) *load {
	t.Helper()
	l := &load{c: c, writes: map[string]int64{}}
	b, err := c.NewBatcher(client.BatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	puts := []func(context.Context, string) error{
		func(ctx context.Context, key string) error { _, err := c.Put(ctx, key, nil); return err },
		func(ctx context.Context, key string) error { _, err := b.Put(ctx, key, nil); return err },
	}
	for i := range 8 {
		key, put := fmt.Sprintf("load/%d", i), puts[i%2]
		l.tasks.Go(func() { l.run(t, key, put) })
	}
	return l
}

func (l *load) run(t *testing.T, key string, put func(context.Context, string) error) {
	for !l.stopped.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		start := time.Now()
		err := put(ctx, key)
		cancel()
		if err != nil {
			t.Errorf("%s: %v", key, err)
			return
		}
		l.mu.Lock()
		l.writes[key]++
		l.slowest = max(l.slowest, time.Since(start))
		l.mu.Unlock()
	}
}

func (l *load) stop(t *testing.T) {
	t.Helper()
	l.stopped.Store(true)
	l.tasks.Wait()
	var all int64
	for key, writes := range l.writes {
		kv, err := l.c.Get(within(t, 10*time.Second), key)
		if err != nil || kv.GetVersion() != writes {
			t.Errorf("%s: %d writes were acknowledged, %d applied (%v)", key, writes, kv.GetVersion(), err)
		}
		all += writes
	}
	t.Logf("%d writes, the slowest took %v", all, l.slowest)
}

// follow checks that a watch gives every write once and in order. await waits
// until it has given so many, and ends it.
func follow(t *testing.T, c *client.Client) (await func(events int64)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var given atomic.Int64
	ended := make(chan struct{})
	started := make(chan struct{})
	go func() {
		defer close(ended)
		first, last, versions := true, int64(0), map[string]int64{}
		for response, err := range c.Watch(ctx, client.Prefix("load/")) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("watch: %v", err)
				}
				return
			}
			if first {
				close(started)
				first = false
			}
			for _, e := range response.GetEvents() {
				kv := e.GetKv()
				key := string(kv.GetKey())
				if kv.GetModRevision() <= last || kv.GetVersion() != versions[key]+1 {
					t.Errorf("watch: %v after revision %d and version %d", kv, last, versions[key])
				}
				last, versions[key] = kv.GetModRevision(), kv.GetVersion()
				given.Add(1)
			}
		}
	}()
	<-started
	return func(events int64) {
		t.Helper()
		eventually(t, "the watch has every write", func() bool { return given.Load() >= events })
		cancel()
		<-ended
		if n := given.Load(); n != events {
			t.Errorf("the watch gave %d events of %d writes", n, events)
		}
	}
}

// Scenario: S38
func TestKillTheMasterUnderLoad(t *testing.T) {
	t.Parallel()
	pods, c := startKvd(t)
	ctx := within(t, 2*time.Minute)
	lock, err := c.Lock(ctx, "lock", client.LockTTL(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	await := follow(t, c)
	l := startLoad(t, c)
	for _, fault := range []string{"kill", "pause", "kill"} {
		master := awaitWhole(t, pods)
		var end func() error
		if fault == "kill" {
			kvd.Kill(master)
			end = master.Start
		} else {
			if err := master.Pause(); err != nil {
				t.Fatal(err)
			}
			end = master.Resume
		}
		time.Sleep(2 * time.Second) // with the fault
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	awaitWhole(t, pods)
	l.stop(t)
	var want int64
	for _, n := range l.writes {
		want += n
	}
	await(want)
	if lock.Context().Err() != nil {
		t.Errorf("the lock was lost: %v", context.Cause(lock.Context()))
	}
	if err := lock.Unlock(ctx); err != nil {
		t.Error(err)
	}
	if l.slowest > 10*time.Second {
		t.Errorf("a write took %v", l.slowest)
	}
}
