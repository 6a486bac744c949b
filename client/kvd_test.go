package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// The client against what it is for: three kvd processes, of which the master
// is killed, and stopped for a while, under load.

// realCluster is kvd dev.
type realCluster struct {
	endpoints []string
	mu        sync.Mutex // guards pids
	pids      map[string]int
}

var runsAs = regexp.MustCompile(`^dev  \| (kv-\d+) runs as process (\d+)`)

// startKvd builds and starts a cluster, and waits until it is ready.
func startKvd(t *testing.T) (*realCluster, *client.Client) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short")
	}
	const source = "../cmd/kvd"
	if _, err := os.Stat(source); err != nil {
		t.Skip("there is no kvd in this tree")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "kvd")
	if out, err := exec.Command("go", "build", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("kvd does not build: %v\n%s", err, out)
	}
	base := freePorts(t)
	cmd := exec.Command(binary, "dev", "--nodes", "3", "--data-dir", filepath.Join(dir, "data"), "--base-port", strconv.Itoa(base))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	r := &realCluster{pids: map[string]int{}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := runsAs.FindStringSubmatch(lines.Text()); m != nil {
				pid, _ := strconv.Atoi(m[2]) // digits
				r.mu.Lock()
				r.pids[m[1]] = pid
				r.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		<-read
		_ = cmd.Wait() // it says that it was interrupted
	})
	for i := range 3 {
		r.endpoints = append(r.endpoints, fmt.Sprintf("127.0.0.1:%d", base+10*i))
	}
	c, err := client.New(client.Options{Endpoints: r.endpoints[:1]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	r.awaitReady(t, c)
	return r, c
}

// freePorts finds a base port with 30 free ones.
func freePorts(t *testing.T) int {
	t.Helper()
	for base := 27500 + os.Getpid()%100*40; base < 40000; base += 40 {
		free := true
		for port := base; port < base+30 && free; port++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if free = err == nil; free {
				l.Close()
			}
		}
		if free {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// awaitReady waits until all pods are ready, and returns the master.
func (r *realCluster) awaitReady(t *testing.T, c *client.Client) (master string) {
	t.Helper()
	ctx := within(t, 60*time.Second)
	for ctx.Err() == nil {
		ready := 0
		status, err := c.Status(ctx)
		for _, pod := range status.GetPods() {
			if pod.GetReady() {
				ready++
			}
			if pod.GetRole() == kvv1.PodStatus_ROLE_MASTER {
				master = pod.GetName()
			}
		}
		if err == nil && ready == 3 && master != "" {
			return master
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the cluster was not ready in time")
	return ""
}

func (r *realCluster) signal(t *testing.T, pod string, s syscall.Signal) {
	t.Helper()
	r.mu.Lock()
	pid := r.pids[pod]
	r.mu.Unlock()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("%s, process %d: %v", pod, pid, err)
	}
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
	b, err := c.NewBatcher()
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
	r, c := startKvd(t)
	ctx := within(t, 2*time.Minute)
	lock, err := c.Lock(ctx, "lock", client.LockOptions{TTL: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	await := follow(t, c)
	l := startLoad(t, c)
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGKILL} {
		master := r.awaitReady(t, c)
		r.signal(t, master, s)
		time.Sleep(2 * time.Second) // with the fault
		if s == syscall.SIGSTOP {
			r.signal(t, master, syscall.SIGCONT)
		}
	}
	r.awaitReady(t, c)
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
