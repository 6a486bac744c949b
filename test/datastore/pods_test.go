//go:build e2e

package datastore

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

const podCount = 3

// pods are three processes of kvd.
type pods struct {
	*cluster.Cluster
	admin *client.Client
}

// startPods starts three empty pods and returns when they are whole.
func startPods(t *testing.T) *pods {
	t.Helper()
	c, err := cluster.New(t.TempDir(), filepath.Join(*bin, "kvd"), podCount)
	if err != nil {
		t.Fatal(err)
	}
	c.EndWith(t)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitWhole(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	admin, err := client.New(client.Options{Endpoints: c.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Close() })
	return &pods{c, admin}
}

func (p *pods) status() *kvv1.StatusResponse {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := p.admin.Status(ctx)
	if err != nil {
		return &kvv1.StatusResponse{}
	}
	return s
}

// history is the oldest revision that any pod keeps, and the newest one.
func (p *pods) history() (oldest, newest int64) {
	for _, pod := range p.status().GetPods() {
		if at := pod.GetOldestRevision(); oldest == 0 || at < oldest {
			oldest = at
		}
		newest = max(newest, pod.GetRevision())
	}
	return oldest, newest
}

// endpoints are what the API server is told.
func (p *pods) endpoints() string { return "http://" + strings.Join(p.Endpoints(), ",http://") }
