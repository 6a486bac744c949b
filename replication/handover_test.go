package replication

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// A master hands over, twice, to a pod whose disk hangs, then loses its place, and
// leads again: it must take writes. The library's second attempt waits without end
// for the goroutine that replicated to that pod, and until then its Raft refuses
// all writes. (Simulation, a goroutine that was left at the end of seed 6.)
func TestHandOverToAPodThatHangs(t *testing.T) {
	c, disks := newClusterOnDisks(t, time.Minute)
	old := c.master()
	master, heir := c.followers()[0], c.followers()[1]
	goOn := disks[heir.name].stop()
	defer goOn()
	c.handOver(old, master)
	for _, want := range []error{ErrUnknown, ErrNoHeir} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := master.node.HandOver(ctx, heir.name); !errors.Is(err, want) {
			t.Fatalf("a hand over to a pod whose disk hangs: %v, want %v", err, want)
		}
		cancel()
	}
	c.net.isolate(master.name)
	c.eventually("it does not lead", func() error {
		if master.node.engine.Load().views.load().leads {
			return errors.New("it leads")
		}
		return nil
	})
	goOn()
	c.eventually("another one leads", func() error {
		c.master(master.name)
		return nil
	})
	c.net.heal()
	c.awaitReady()
	c.handOver(c.master(), master)
	master.mustPut("k", "v")
}

// handOver hands over until the pod leads.
func (c *cluster) handOver(from, to *pod) {
	c.t.Helper()
	c.eventually(to.name+" is the master", func() error {
		if m := c.master(); m != to {
			_, err := m.node.HandOver(c.t.Context(), to.name)
			return errors.Join(err, fmt.Errorf("%s is", m.name))
		}
		return nil
	})
}
