package node

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
)

// A master hands over, twice, to a pod whose disk hangs, then loses its place, and
// leads again: it must take writes. The library's second attempt waits without end
// for the goroutine that replicated to that pod, and until then its Raft refuses
// all writes. (Simulation, a goroutine that was left at the end of seed 6.)
func TestHandOverToAPodThatHangs(t *testing.T) {
	c, master, successor, goOn := clusterWithAHungHeir(t)
	attempt := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := master.node.HandOver(ctx, successor.name)
		return err
	}
	c.eventually("it is asked, once it is heard", func() error {
		if err := attempt(); !errors.Is(err, replication.ErrUnknown) {
			return fmt.Errorf("a hand over to a pod whose disk hangs: %w", err)
		}
		return nil
	})
	if err := attempt(); !errors.Is(err, replication.ErrNoSuccessor) {
		t.Fatalf("it is asked again: %v", err)
	}
	c.leadsAgain(master, goOn)
	master.mustPut("k", "v")
	// A successor that is well again may be asked.
	c.handOver(master, successor)
}

// Raft believes for ever that it hands over, as after two such attempts: who is
// elected and cannot write says so and ends, for a new process can.
func TestStuckInAHandOver(t *testing.T) {
	c := newCluster(t, 3).boot()
	old, next := c.master(), c.follower()
	state := reflect.ValueOf(next.node.engine.Load().replica.Raft).Elem().FieldByName("leaderState")
	handsOver := (*int32)(state.FieldByName("leadershipTransferInProgress").Addr().UnsafePointer())
	atomic.StoreInt32(handsOver, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, _ = old.node.HandOver(ctx, next.name)
	select {
	case err := <-next.node.Failed():
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			t.Fatal(err)
		}
	case <-time.After(patient):
		t.Fatalf("it neither writes nor ends: %+v", next.node.Status())
	}
}

// clusterWithAHungHeir has a master that was just elected, and a follower whose
// disk has been hanging since before, until goOn.
func clusterWithAHungHeir(t *testing.T) (c *cluster, master, successor *pod, goOn func()) {
	c, disks := newClusterOnDisks(t, time.Minute)
	old := c.master()
	master, successor = c.followers()[0], c.followers()[1]
	goOn = disks[successor.name].stop()
	t.Cleanup(goOn)
	c.handOver(old, master)
	return c, master, successor, goOn
}

// leadsAgain has a master lose its place, and then lead again as far as Raft is
// concerned.
func (c *cluster) leadsAgain(master *pod, goOn func()) {
	c.t.Helper()
	e := master.node.engine.Load()
	c.net.isolate(master.name)
	c.eventually("it does not lead", func() error {
		if e.replica.Views.Load().Leads {
			return errors.New("it leads")
		}
		return nil
	})
	goOn()
	c.master(master.name)
	c.net.heal()
	c.eventually("it leads again", func() error {
		if e.replica.Raft.State() == raft.Leader {
			return nil
		}
		for _, p := range c.pods {
			if p != master && p.node.IsMaster() {
				_, err := p.node.HandOver(c.t.Context(), master.name)
				return errors.Join(err, errors.New("not yet"))
			}
		}
		return errors.New("no other does")
	})
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
