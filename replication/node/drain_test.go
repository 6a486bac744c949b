package node

import (
	"context"
	"testing"
)

// What followers send to a master that closes is refused, and goes to the next
// one: no outcome is unknown.
func TestCloseLeavesNoOutcomeUnknown(t *testing.T) {
	c := newCluster(t, 3).boot()
	for range 5 {
		l := c.load(30)
		l.awaitMore(200)
		old := c.master()
		old.close(context.Background())
		l.awaitMore(200)
		old.start()
		old.awaitStart()
		c.awaitReady()
		l.end()
		if l.unknown > 0 {
			t.Fatalf("%d writes have an unknown outcome", l.unknown)
		}
	}
}
