package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft-wal/fs"

	"github.com/batondb/baton/replication"
)

// A follower learns what is committed without a further entry, also when that
// happens long after its own disk has the entry: here all but one are slow.
func TestTellCommitted(t *testing.T) {
	c := newCluster(t, 5)
	// The library tells as well, so late that it shows: what it sends before it
	// begins to pipeline, as to a pod that joins, is told of in no other way.
	const late = 3 * time.Second
	c.adjust = func(o *replication.Options) {
		disk := &slowFS{FS: fs.New()}
		disk.slow.Store(o.Name != "kv-4")
		o.LogFS = disk
		o.Timing.Commit = late
	}
	c.boot()
	const writes = 20
	began := time.Now()
	for i := range writes {
		c.master().mustPut("k", fmt.Sprint(i))
		for _, follower := range c.followers() {
			follower.mustRead("k", fmt.Sprint(i))
		}
	}
	if took := time.Since(began); took > writes*late/2 {
		t.Errorf("%d writes took %s to be seen everywhere", writes, took)
	}
}

// Whoever writes through a follower sees it there without asking the master.
func TestAForwardedWriteIsSeenWhereItWasSent(t *testing.T) {
	c := newCluster(t, 3)
	// Longer than an answer waits, and short enough to boot by.
	c.adjust = func(o *replication.Options) { o.Timing.Commit = 5 * time.Second }
	c.boot()
	follower := c.follower()
	for i := range 50 {
		follower.mustPut("k", fmt.Sprint(i))
		if got, _ := follower.machine.Get("k"); got != fmt.Sprint(i) {
			t.Fatalf("after write %d the follower has %q", i, got)
		}
	}
}

// A follower that is behind does not make a failure of a write that is done.
func TestAForwardedWriteThroughAPodThatIsBehind(t *testing.T) {
	c := newCluster(t, 3).boot()
	follower := c.follower()
	follower.mustPut("k", "before")
	stuck := make(chan struct{})
	follower.machine.Stuck.Store(&stuck)
	defer close(stuck)
	if err := follower.put("k", "after"); err != nil {
		t.Error(err)
	}
	if got, _ := follower.machine.Get("k"); got != "before" {
		t.Errorf("the follower has %q", got)
	}
	c.master().mustRead("k", "after")
}
