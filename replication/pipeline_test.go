package replication

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/fs"

	"github.com/batondb/baton/internal/turn"
)

// A follower learns what is committed without a further entry, also when that
// happens long after its own disk has the entry: here all but one are slow.
func TestTellCommitted(t *testing.T) {
	c := newCluster(t, 5)
	c.adjust = func(o *Options) {
		disk := &slowFS{FS: fs.New()}
		disk.slow.Store(o.Name != "kv-4")
		o.LogFS = disk
		o.Timing.Commit = time.Hour
	}
	c.boot()
	for i := range 20 {
		c.master().mustPut("k", fmt.Sprint(i))
		for _, follower := range c.followers() {
			follower.mustRead("k", fmt.Sprint(i))
		}
	}
}

// Only after an entry that comes alone does nobody wait for the next, which tells
// for nothing. Messages without entries do not count.
func TestALoneEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipeline{turn: turn.New()}
		entries, none := &raft.AppendEntriesRequest{Entries: []*raft.Log{{Index: 1}}}, &raft.AppendEntriesRequest{}
		for i, step := range []struct {
			after time.Duration
			req   *raft.AppendEntriesRequest
			want  bool
		}{
			{0, entries, true},
			{aloneAfter / 2, none, true},
			{aloneAfter / 4, entries, false},
			{aloneAfter / 2, none, false},
			{aloneAfter / 2, entries, true},
			{aloneAfter - 1, entries, false},
		} {
			time.Sleep(step.after)
			p.note(step.req)
			if got := p.lone(); got != step.want {
				t.Errorf("step %d: alone %v, want %v", i, got, step.want)
			}
		}
	})
}

// Whoever writes through a follower sees it there without asking the master.
func TestAForwardedWriteIsSeenWhereItWasSent(t *testing.T) {
	c := newCluster(t, 3)
	c.adjust = func(o *Options) { o.Timing.Commit = time.Hour }
	c.boot()
	follower := c.follower()
	for i := range 50 {
		follower.mustPut("k", fmt.Sprint(i))
		if got, _ := follower.machine.get("k"); got != fmt.Sprint(i) {
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
	follower.machine.stuck.Store(&stuck)
	defer close(stuck)
	if err := follower.put("k", "after"); err != nil {
		t.Error(err)
	}
	if got, _ := follower.machine.get("k"); got != "before" {
		t.Errorf("the follower has %q", got)
	}
	c.master().mustRead("k", "after")
}
