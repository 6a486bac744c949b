package process

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

const pods = 3

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }

// start starts a pod again.
func start(t *testing.T, p *cluster.Pod) {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
}

// whole waits until all pods are ready, and returns which is the master.
func whole(t *testing.T, c *cluster.Cluster) (master int) {
	t.Helper()
	if err := c.AwaitWhole(t.Context(), cluster.Patience); err != nil {
		t.Fatal(err)
	}
	return slices.Index(c.Pods, c.AwaitMaster(t))
}

func kv(p *cluster.Pod) kvv1.KVServiceClient { return kvv1.NewKVServiceClient(p.Conn()) }

func put(t *testing.T, p *cluster.Pod, key, value string) {
	t.Helper()
	cluster.Eventually(t, "put through "+p.Name, cluster.Patience, func(ctx context.Context) error {
		_, err := kv(p).Put(ctx, &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)})
		return err
	})
}

func wantAll(t *testing.T, p *cluster.Pod, want map[string]string) {
	t.Helper()
	cluster.Eventually(t, "read through "+p.Name, cluster.Patience, func(ctx context.Context) error {
		response, err := kv(p).Range(ctx, &kvv1.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if err != nil {
			return err
		}
		got := map[string]string{}
		for _, kv := range response.GetKvs() {
			got[string(kv.GetKey())] = string(kv.GetValue())
		}
		// Linearizable: the first answer must be right.
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%s has %v, want %v", p.Name, got, want)
		}
		return nil
	})
}

// TestKillTheMaster: writes and reads on every pod, the master killed, on with
// the other two, and the killed one back with everything.
func TestKillTheMaster(t *testing.T) {
	c := cluster.Launch(t, pods)
	all := c.Pods
	want := map[string]string{}
	write := func(p *cluster.Pod, key string) {
		put(t, p, key, "of "+key)
		want[key] = "of " + key
	}
	for i, p := range all {
		write(p, fmt.Sprintf("first-%d", i))
		wantAll(t, p, want)
	}
	master := whole(t, c)

	cluster.Kill(all[master])
	for i, p := range all {
		if i != master {
			write(p, fmt.Sprintf("without-%d", i))
			wantAll(t, p, want)
		}
	}

	start(t, all[master])
	whole(t, c)
	wantAll(t, all[master], want)
	write(all[master], "again")
	for _, p := range all {
		wantAll(t, p, want)
	}
}

// TestStop: SIGTERM ends every pod with status 0, and the data is there after.
func TestStop(t *testing.T) {
	c := cluster.Launch(t, pods)
	all := c.Pods
	put(t, all[1], "key", "value")
	whole(t, c)
	for _, p := range all {
		if err := cluster.Stop(p); err != nil {
			t.Error(err)
		}
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	wantAll(t, all[2], map[string]string{"key": "value"})
}
