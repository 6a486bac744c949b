package clients

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"

	"github.com/batondb/baton/test/etcd/servers"
)

// A cached read is never older than the last write, when the master is killed.
func TestLeasing(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx := limited(t)
	var caches []clientv3.KV
	for range 2 {
		kv, end, err := leasing.NewKV(dial(t, pods.Endpoints()...), "leasing/")
		if err != nil {
			t.Fatal(err)
		}
		defer end()
		caches = append(caches, kv)
	}
	var done atomic.Int64
	var stopped atomic.Bool
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; !stopped.Load(); i++ {
			value := fmt.Sprint(i)
			if err := again(ctx, func() error { _, err := caches[i%2].Put(ctx, "k", value); return err }); err != nil {
				t.Error(err)
				return
			}
			for _, kv := range caches {
				var r *clientv3.GetResponse
				err := again(ctx, func() (err error) { r, err = kv.Get(ctx, "k"); return err })
				if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != value {
					t.Errorf("%v, %v after %s was written", r, err, value)
					return
				}
			}
			done.Add(1)
		}
	})
	killMaster(t, pods, done.Load)
	stopped.Store(true)
	all.Wait()
}

// A namespace shows its own keys only.
func TestNamespace(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx := limited(t)
	client := dial(t, pods.Endpoints()...)
	kv, watcher, leases := namespace.NewKV(client, "ns/"), namespace.NewWatcher(client, "ns/"), namespace.NewLease(client, "ns/")
	events := watcher.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(1))
	lease, err := leases.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(ctx, "outside", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, "a", "1", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	r, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).Then(clientv3.OpPut("b", "2"), clientv3.OpGet("", clientv3.WithPrefix())).Commit()
	if err != nil || !r.Succeeded || len(r.Responses[1].GetResponseRange().GetKvs()) != 2 {
		t.Fatal(r, err)
	}
	left, err := leases.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil || len(left.Keys) != 1 || string(left.Keys[0]) != "a" {
		t.Fatal(left, err)
	}
	var seen []string // One answer may have the events of several revisions.
	for len(seen) < 2 {
		got, open := <-events
		if !open || got.Err() != nil {
			t.Fatal(open, got.Err())
		}
		for _, e := range got.Events {
			seen = append(seen, string(e.Kv.Key))
		}
	}
	if !slices.Equal(seen, []string{"a", "b"}) {
		t.Fatal(seen)
	}
	if raw, err := client.Get(ctx, "ns/", clientv3.WithPrefix()); err != nil || raw.Count != 2 {
		t.Fatal(raw, err)
	}
}

// A mirror has what the source has: at first a copy, then every change.
func TestMirror(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx := limited(t)
	client := dial(t, pods.Endpoints()...)
	const keys = 2500 // More than the syncer's page.
	for i := range keys {
		if _, err := client.Put(ctx, fmt.Sprintf("w/base/%04d", i), "base"); err != nil {
			t.Fatal(err)
		}
	}
	writing, stop := context.WithCancel(ctx)
	var writers, syncing sync.WaitGroup
	var done, reached atomic.Int64
	writers.Go(func() { write(writing, client, "1", &done) })
	source := dial(t, pods.Endpoints()...)
	syncer := mirror.NewSyncer(source, "w/", 0)
	copied := map[string]string{}
	pages, failed := syncer.SyncBase(ctx)
	for page := range pages {
		for _, kv := range page.Kvs {
			copied[string(kv.Key)] = string(kv.Value)
		}
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if len(copied) < keys {
		t.Fatalf("the base has %d keys", len(copied))
	}
	updates, end := context.WithCancel(ctx)
	syncing.Go(func() {
		for r := range syncer.SyncUpdates(updates) {
			for _, e := range r.Events {
				copied[string(e.Kv.Key)] = string(e.Kv.Value)
				if e.Type == clientv3.EventTypeDelete {
					delete(copied, string(e.Kv.Key))
				}
				reached.Store(e.Kv.ModRevision)
			}
		}
	})
	killMaster(t, pods, done.Load)
	stop()
	writers.Wait()
	last, err := client.Put(ctx, "w/last", "")
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the mirror has all", func() bool { return reached.Load() >= last.Header.Revision })
	end()
	syncing.Wait()
	r, err := client.Get(ctx, "w/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, kv := range r.Kvs {
		want[string(kv.Key)] = string(kv.Value)
	}
	if !maps.Equal(copied, want) {
		t.Errorf("the mirror has %d keys, the source %d", len(copied), len(want))
	}
}

// The snapshot package takes a copy of a pod's database that is whole.
func TestSnapshot(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx := limited(t)
	client := dial(t, pods.Endpoints()...)
	if _, err := client.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "snapshot.db")
	for _, p := range pods.Pods {
		version, err := snapshot.SaveWithVersion(ctx, zap.NewNop(), clientv3.Config{Endpoints: []string{p.Client}}, path)
		if err != nil || version == "" {
			t.Fatalf("%s: %q, %v", p.Name, version, err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Fatal(err)
		}
	}
}
