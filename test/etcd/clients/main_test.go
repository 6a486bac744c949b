package clients

import (
	"context"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/etcd/servers"
)

// patience is for what a kill of the master may delay, on a busy machine.
const patience = 60 * time.Second

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }

// dial returns a client of some pods.
func dial(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// limited ends with the test, or when it takes too long.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

// await waits for a state.
func await(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// killMaster kills the master the hard way, waits until the others have another
// one and something more was done, and starts the pod again.
func killMaster(t *testing.T, pods *cluster.Cluster, done func() int64) {
	t.Helper()
	before := done()
	await(t, "work before the kill", func() bool { return done() > before+5 })
	master := pods.AwaitMaster(t)
	cluster.Kill(master)
	before = done()
	await(t, "work after the kill", func() bool { return done() > before+5 })
	servers.Start(t, master)
}

// again repeats what is safe to repeat until it succeeds.
func again(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
