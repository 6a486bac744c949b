package clients

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/etcd/servers"
)

// A lease that is kept alive lives through a change of master, and one that is
// not ends, but never early.
func TestLease(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx := limited(t)
	client := dial(t, pods.Endpoints()...)
	const ttl = 3
	kept, err := client.Grant(ctx, ttl)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := client.KeepAlive(ctx, kept.ID)
	if err != nil {
		t.Fatal(err)
	}
	left, err := client.Grant(ctx, ttl)
	if err != nil {
		t.Fatal(err)
	}
	granted := time.Now()
	for key, lease := range map[string]clientv3.LeaseID{"kept": kept.ID, "left": left.ID} {
		if _, err := client.Put(ctx, key, "", clientv3.WithLease(lease)); err != nil {
			t.Fatal(err)
		}
	}
	ended := client.Watch(ctx, "left", clientv3.WithFilterPut(), clientv3.WithRev(1))
	master := pods.AwaitMaster(t)
	cluster.Kill(master)
	events := <-ended
	if after := time.Since(granted); len(events.Events) != 1 || after < ttl*time.Second {
		t.Errorf("%v after %v", events, after)
	}
	servers.Start(t, master)
	for until := time.Now().Add(2 * ttl * time.Second); time.Now().Before(until); {
		if r, more := <-alive; !more || r.TTL != ttl {
			t.Fatal("a keep-alive has failed: ", r)
		}
	}
	if r, err := client.Get(ctx, "kept"); err != nil || len(r.Kvs) != 1 {
		t.Fatal(r, err)
	}
	if r, err := client.TimeToLive(ctx, kept.ID, clientv3.WithAttachedKeys()); err != nil || r.TTL <= 0 || len(r.Keys) != 1 {
		t.Fatal(r, err)
	}
	if r, err := client.TimeToLive(ctx, left.ID); err != nil || r.TTL != -1 {
		t.Fatal(r, err)
	}
	if r, err := client.Leases(ctx); err != nil || len(r.Leases) != 1 {
		t.Fatal(r, err)
	}
}
