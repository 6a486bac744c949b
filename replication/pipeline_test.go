package replication

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft-wal/fs"
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
