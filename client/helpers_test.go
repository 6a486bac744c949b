package client_test

import (
	"context"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/client/clienttest"
)

// cluster starts a stand-in cluster and a client of it.
func cluster(t testing.TB, pods int) (*clienttest.Cluster, *client.Client) {
	t.Helper()
	fake, err := clienttest.Start(pods)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	return fake, connect(t, fake.Endpoints()...)
}

func connect(t testing.TB, endpoints ...string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Endpoints: endpoints, AttemptTimeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a state.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}
