package clients

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/etcd/servers"
)

// tape is what a watch has shown, a line an event.
type tape struct {
	mu     sync.Mutex
	lines  []string
	upTo   int64 // The last event's revision.
	member uint64
}

func (w *tape) run(t *testing.T, events clientv3.WatchChan) {
	for r := range events {
		if err := r.Err(); err != nil {
			t.Error(err)
			return
		}
		w.mu.Lock()
		w.member = r.Header.MemberId
		for _, e := range r.Events {
			w.upTo = e.Kv.ModRevision
			w.lines = append(w.lines, fmt.Sprintf("%d %v %s=%s", e.Kv.ModRevision, e.Type, e.Kv.Key, e.Kv.Value))
		}
		if r.Header.Revision < w.upTo {
			t.Errorf("the header of the event at %d says %d", w.upTo, r.Header.Revision)
		}
		w.mu.Unlock()
	}
}

func (w *tape) reached(revision int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.upTo >= revision
}

func (w *tape) pod() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.member
}

// write puts and deletes, one and many keys at a revision.
func write(ctx context.Context, client *clientv3.Client, name string, done *atomic.Int64) {
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("w/%s/%d", name, i%7)
		var err error
		switch i % 5 {
		case 3:
			_, err = client.Delete(ctx, "w/"+name+"/", clientv3.WithPrefix())
		case 4:
			_, err = client.Txn(ctx).Then(clientv3.OpPut(key, fmt.Sprint(i)), clientv3.OpPut("w/other/"+name, fmt.Sprint(i))).Commit()
		default:
			_, err = client.Put(ctx, key, fmt.Sprint(i))
		}
		if err == nil {
			done.Add(1)
		}
	}
}

// Each watch shows every event once and in order, when the master is killed,
// when the pod that serves the watch is, and when all pods are restarted.
func TestWatch(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx := limited(t)
	writing, stop := context.WithCancel(ctx)
	var writers, watchers sync.WaitGroup
	var done atomic.Int64
	for i := range 3 {
		client := dial(t, pods.Endpoints()...)
		writers.Go(func() { write(writing, client, fmt.Sprint(i), &done) })
	}
	watching, end := context.WithCancel(ctx)
	var tapes []*tape
	for range 3 {
		client := dial(t, pods.Endpoints()...)
		for _, options := range [][]clientv3.OpOption{nil, {clientv3.WithPrevKV(), clientv3.WithFragment(), clientv3.WithProgressNotify()}} {
			w := &tape{}
			tapes = append(tapes, w)
			events := client.Watch(clientv3.WithRequireLeader(watching), "w/", append(options, clientv3.WithPrefix(), clientv3.WithRev(1))...)
			watchers.Go(func() { w.run(t, events) })
		}
	}
	await(t, "some writes", func() bool { return done.Load() > 300 })
	killMaster(t, pods, done.Load)
	server := podOf(t, pods, tapes[0].pod())
	cluster.Kill(server)
	before := done.Load()
	await(t, "work after the kill", func() bool { return done.Load() > before+300 })
	servers.Start(t, server)
	for _, p := range pods.Pods {
		if err := cluster.Stop(p); err != nil {
			t.Error(err)
		}
		servers.Start(t, p)
	}
	stop()
	writers.Wait()
	client := dial(t, pods.Endpoints()...)
	last, err := client.Put(ctx, "w/last", "")
	if err != nil {
		t.Fatal(err)
	}
	truth := &tape{}
	events := client.Watch(watching, "w/", clientv3.WithPrefix(), clientv3.WithRev(1))
	watchers.Go(func() { truth.run(t, events) })
	for _, w := range append(tapes, truth) {
		await(t, "the watch has seen all", func() bool { return w.reached(last.Header.Revision) })
	}
	end()
	watchers.Wait()
	for i, w := range tapes {
		if !slices.Equal(w.lines, truth.lines) {
			t.Errorf("watch %d: %d events, not %d; %s", i, len(w.lines), len(truth.lines), difference(w.lines, truth.lines))
		}
	}
	t.Logf("%d events, %d writes", len(truth.lines), done.Load())
}

func difference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("at %d %q is not %q", i, got[i], want[i])
		}
	}
	return "one begins with the other"
}

// podOf finds the pod that has an etcd member's id.
func podOf(t *testing.T, pods *cluster.Cluster, member uint64) *cluster.Pod {
	t.Helper()
	for _, p := range pods.Pods {
		status, err := dial(t, p.Client).Status(t.Context(), p.Client)
		if err == nil && status.Header.MemberId == member {
			return p
		}
	}
	t.Fatalf("no pod is member %d", member)
	return nil
}

// A progress request made after a write is answered with at least its revision,
// promptly, whichever pod serves the watch.
func TestProgress(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx := limited(t)
	writer := dial(t, pods.Endpoints()...)
	for _, p := range pods.Pods {
		client := dial(t, p.Client)
		events := client.Watch(ctx, "none", clientv3.WithCreatedNotify())
		<-events
		for range 20 {
			put, err := writer.Put(ctx, "some", "")
			if err != nil {
				t.Fatal(err)
			}
			asked := time.Now()
			if err := client.RequestProgress(ctx); err != nil {
				t.Fatal(err)
			}
			r := <-events
			if !r.IsProgressNotify() || r.Header.Revision < put.Header.Revision {
				t.Fatalf("%s: %v after the write of %d", p.Name, r, put.Header.Revision)
			}
			if took := time.Since(asked); took > time.Second {
				t.Errorf("%s: an answer took %v", p.Name, took)
			}
		}
	}
}
