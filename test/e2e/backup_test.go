//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/batondb/baton/client"
)

// A backup goes back into the StatefulSet that it is from, as docs/operations.md
// says: what was written after it is gone, the history is a new one, and no
// revision comes twice.
func TestS42Restore(t *testing.T) {
	c := prepare(t, 3)
	c.apply("")
	c.settle()
	ctx, cancel := context.WithTimeout(context.Background(), settlePatience)
	defer cancel()
	c.putMany(ctx, "before", 500)
	backup := c.backup(ctx)
	c.putMany(ctx, "after", 500)
	last, old := c.admin.Revision(), c.id

	c.kubectl("scale", "statefulset/kv", "--replicas=0")
	c.awaitNoPods()
	c.kubectl("delete", "pvc", "-l", "app.kubernetes.io/instance=kv")
	c.kubectl("delete", "configmap", "kv-cluster")
	c.applyText(readFile(t, "restore.yaml"))
	c.kubectl("wait", "pod/kv-restore", "--for=condition=Ready", "--timeout=60s")
	out, err := kubectl(c.namespace, backup, "attach", "-i", "-q", "kv-restore")
	if err != nil {
		t.Fatal(err)
	}
	c.kubectl("wait", "pod/kv-restore", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
	t.Logf("kvctl says: %s", out+c.kubectl("logs", "kv-restore"))
	c.kubectl("delete", "pod", "kv-restore")

	c.id = "" // A new one, rightly.
	c.timed("S42 a backup is restored", 30*time.Second, func() { c.scale(3) })
	page, err := c.admin.Range(ctx, client.Prefix("before/"))
	if err != nil || len(page.GetKvs()) != 500 {
		t.Errorf("%d keys of the backup are there (%v)", len(page.GetKvs()), err)
	}
	if page.GetHeader().GetRevision() <= last {
		t.Errorf("the revision went back: from %d to %d", last, page.GetHeader().GetRevision())
	}
	if n, err := c.admin.Count(ctx, client.Prefix("after/")); err != nil || n != 0 {
		t.Errorf("%d keys are there that were written after the backup (%v)", n, err)
	}
	if c.id == old {
		t.Error("the restored cluster has the old one's id")
	}
}

func (c *Cluster) putMany(ctx context.Context, prefix string, n int) {
	c.t.Helper()
	for i := range n {
		if _, err := c.admin.Put(ctx, fmt.Sprintf("%s/%d", prefix, i), []byte(prefix)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *Cluster) backup(ctx context.Context) string {
	c.t.Helper()
	stream, _, err := c.admin.Snapshot(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	defer stream.Close() //nolint:errcheck // It was only read.
	data, err := io.ReadAll(stream)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(data)
}
