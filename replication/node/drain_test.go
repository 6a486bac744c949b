package node

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/entry"
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

// Raft ends while committed entries wait for the state machine. The library does not
// answer for those; whoever waits for them must not hold up the end of the pod.
func TestCloseBeforeAllIsApplied(t *testing.T) {
	c := newCluster(t, 1).boot()
	p := c.pods["kv-0"]
	replica := p.node.engine.Load().replica
	stuck := make(chan struct{})
	p.machine.Stuck.Store(&stuck)
	const entries = 20
	data := []byte{entry.Version}
	answers := make(chan error, entries)
	for range entries {
		f := replica.Raft.ApplyLog(raft.Log{Data: data, Extensions: entry.Checksum(data)}, 0)
		go func() { answers <- replica.Await(f) }()
		last := replica.Raft.LastIndex()
		c.eventually("the entry is committed", func() error {
			if committed := replica.Raft.CommitIndex(); committed < last {
				return fmt.Errorf("%d of %d", committed, last)
			}
			return nil
		})
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		p.close(context.Background())
	}()
	c.eventually("Raft ends", func() error {
		if state := replica.Raft.State(); state != raft.Shutdown {
			return errors.New(state.String())
		}
		return nil
	})
	close(stuck)
	for range entries {
		select {
		case <-answers:
		case <-time.After(patient):
			t.Fatal("an entry is never answered")
		}
	}
	<-closed
}
