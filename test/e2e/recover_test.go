//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// A majority loses its volumes, and the wiped pods start first: nothing serves,
// and no second cluster comes about, until a person says which copy is to go on.
func TestS20MajorityLost(t *testing.T) {
	for _, overlay := range []string{"", "parallel"} {
		t.Run(policy(overlay), func(t *testing.T) { loseMajority(t, overlay) })
	}
}

func loseMajority(t *testing.T, overlay string) {
	c := prepare(t, 3)
	c.apply(overlay)
	c.settle()
	ctx, cancel := context.WithTimeout(context.Background(), 2*settlePatience)
	defer cancel()
	c.putMany(ctx, "before", 500)
	last, old := c.admin.Revision(), c.id
	c.awaitInStep(ctx, last)
	if out, err := kubectl(c.namespace, "", "exec", "kv-2", "--", "kvd", "recover"); err == nil {
		t.Fatalf("kvd recover did it while there was a quorum: %s", out)
	} else {
		t.Logf("with a quorum: %v", err)
	}

	c.kubectl("delete", "pvc", "data-kv-0", "data-kv-1", "--wait=false")
	c.kubectl("delete", "pods", "-l", "app.kubernetes.io/instance=kv")
	for _, pod := range []string{"kv-0", "kv-1", "kv-2"} {
		c.awaitRunning(pod)
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(poll) {
		for _, s := range c.self(ctx) {
			if own := s.GetPods()[0]; own.GetRole() == kvv1.PodStatus_ROLE_MASTER || s.GetClusterId() != "" && s.GetClusterId() != old {
				t.Fatalf("%s is the %s of cluster %s, before it was %s", own.GetName(), own.GetRole(), s.GetClusterId(), old)
			}
		}
	}

	c.id = "" // A new one, rightly.
	c.timed("S20 kvd recover, "+policy(overlay), 30*time.Second, func() {
		t.Logf("kvd recover says: %s", strings.TrimSpace(c.kubectl("exec", "kv-2", "--", "kvd", "recover", "--lost", "kv-0,kv-1")))
	})
	if n, err := c.admin.Count(ctx, client.Prefix("before/")); err != nil || n != 500 {
		t.Errorf("%d keys are there (%v)", n, err)
	}
	if now := c.admin.Revision(); now <= last {
		t.Errorf("the revision went back: from %d to %d", last, now)
	}
	if c.id == old {
		t.Error("the new history has the old cluster's id")
	}
}

// awaitInStep waits until every pod has a revision.
func (c *Cluster) awaitInStep(ctx context.Context, revision int64) {
	c.t.Helper()
	c.await("all pods are in step", settlePatience, func() bool {
		all := c.self(ctx)
		for _, s := range all {
			if s.GetPods()[0].GetRevision() < revision {
				return false
			}
		}
		return len(all) == c.replicas
	})
}
