package client_test

import (
	"errors"
	"testing"
	"time"

	"github.com/batondb/baton/client"
)

// A backup was restored where the cluster was: its revisions say something else.
func TestAWatchDoesNotGoOnInAnotherCluster(t *testing.T) {
	fake, c := cluster(t, 2)
	ctx := within(t, 10*time.Second)
	if _, err := c.Put(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	var ended error
	for response, err := range c.Watch(ctx, client.Key("a"), client.FromRevision(1)) {
		if ended = err; err == nil && len(response.GetEvents()) > 0 {
			fake.SetID("restored")
			for i := range 2 {
				fake.StopPod(i)
				if err := fake.StartPod(i); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	var e *client.Error
	if !errors.Is(ended, client.ErrOtherCluster) || !errors.As(ended, &e) || e.Metadata["cluster_id"] != "restored" {
		t.Fatalf("%v", ended)
	}
	for _, err := range c.Watch(ctx, client.Key("a"), client.FromRevision(2)) {
		if !errors.Is(err, client.ErrOtherCluster) {
			t.Fatalf("a watch from a revision of before: %v", err)
		}
	}
	if _, err := c.Get(ctx, "a", client.LocalRead(), client.MinRevision(c.Revision())); !errors.Is(err, client.ErrOtherCluster) {
		t.Fatalf("a read that is as new as what was seen before: %v", err)
	}
	for _, err := range c.Scan(ctx, client.Key("a"), client.MinRevision(c.Revision())) {
		if !errors.Is(err, client.ErrOtherCluster) {
			t.Fatalf("a scan that is as new as what was seen before: %v", err)
		}
	}
	if _, err := c.Get(ctx, "a"); err != nil {
		t.Fatalf("the newest is the newest: %v", err)
	}
}

func TestAKeptRevisionIsOfTheClusterThatOptionsName(t *testing.T) {
	fake, _ := cluster(t, 1)
	ctx := within(t, 10*time.Second)
	for id, want := range map[string]error{fake.ID(): nil, "another": client.ErrOtherCluster} {
		c, err := client.New(client.Options{Endpoints: fake.Endpoints(), Cluster: id})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range c.Watch(ctx, client.Key("a"), client.FromRevision(1)) {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v", id, err)
			}
			break
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
