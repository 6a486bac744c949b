package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/machinetest"
)

// Scenario: S01
func TestStartInAnyOrder(t *testing.T) {
	for _, order := range [][]int{{2, 1, 0}, {1, 0, 2}, {2, 0, 1}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			c := newCluster(t, 3)
			for i, o := range order {
				p := c.pods[c.list[o]]
				p.start()
				if i < 2 {
					c.eventually("it waits", func() error {
						if because, _ := p.node.progress.Get(); because == "" {
							return errors.New("no reason given")
						}
						return nil
					})
				}
			}
			for _, p := range c.pods {
				p.awaitStart()
			}
			c.awaitReady()
			id := c.pods["kv-0"].node.ClusterID()
			for _, p := range c.pods {
				if got := p.node.ClusterID(); got != id || id == "" {
					t.Errorf("%s is of cluster %q, kv-0 of %q", p.name, got, id)
				}
			}
		})
	}
}

func TestOnePod(t *testing.T) {
	c := newCluster(t, 1).boot()
	p := c.pods["kv-0"]
	p.mustPut("k", "v")
	id := p.node.MemberID()
	p.close(context.Background())
	p.start()
	p.awaitStart()
	c.awaitReady()
	p.mustRead("k", "v")
	if p.node.MemberID() != id {
		t.Error("a restart made a new member")
	}
}

// The lowest ordinal loses its volume while a peer does not answer: it must not
// found a second cluster.
//
// Scenario: S19
func TestSilenceDecidesNothing(t *testing.T) {
	c := newCluster(t, 3).boot()
	first := c.pods["kv-0"]
	id := first.node.ClusterID()
	first.mustPut("k", "v")
	first.kill()
	first.wipe()
	c.net.isolate("kv-0")
	first.start()
	c.eventually("it says whom it misses", func() error {
		if because, _ := first.node.progress.Get(); !strings.Contains(because, "kv-1, kv-2") {
			return errors.New(because)
		}
		return nil
	})
	c.net.heal()
	first.awaitStart()
	c.awaitReady()
	if first.node.ClusterID() != id {
		t.Error("another cluster")
	}
	first.mustRead("k", "v")
}

// Scenario: S18
func TestWipedPod(t *testing.T) {
	for _, wiped := range []string{"kv-2", "master"} {
		t.Run(wiped, func(t *testing.T) {
			c := newCluster(t, 3).boot()
			p := c.pods["kv-2"]
			if wiped == "master" {
				p = c.master()
			}
			p.mustPut("k", "v")
			old := p.node.MemberID()
			p.kill()
			p.wipe()
			p.start()
			p.awaitStart()
			c.awaitReady()
			if p.node.MemberID() == old {
				t.Error("a wiped pod kept its identity")
			}
			c.eventually("the old incarnation is removed", func() error {
				ms := p.node.Members()
				for _, m := range ms {
					if m.ID == old || !m.Voter {
						return fmt.Errorf("%v", ms)
					}
				}
				if len(ms) != 3 {
					return fmt.Errorf("%v", ms)
				}
				return nil
			})
			p.mustRead("k", "v")
		})
	}
}

// A write was acknowledged by kv-0 and kv-2 while kv-1 lagged. With kv-2's disk
// lost and kv-0 down, kv-1 and the new kv-2 must not go on without it.
//
// Scenario: S18
func TestForgottenLogDoesNotVote(t *testing.T) {
	c := newCluster(t, 3).boot()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	if c.master().name != "kv-0" {
		if _, err := c.master().node.HandOver(ctx, "kv-0"); err != nil {
			t.Fatal(err)
		}
	}
	master, lagging, wiped := c.pods["kv-0"], c.pods["kv-1"], c.pods["kv-2"]
	c.net.isolate("kv-1")
	master.mustPut("k", "acknowledged")
	master.kill()
	wiped.kill()
	wiped.wipe()
	c.net.heal()
	term := lagging.node.Status().Term
	wiped.start()
	c.eventually("the wiped pod waits for a master", func() error {
		if because, _ := wiped.node.progress.Get(); !strings.Contains(because, "no master") {
			return errors.New(because)
		}
		return nil
	})
	if _, err := lagging.node.Propose(ctx, machinetest.PutCommand("k", "a second history")); !errors.Is(err, replication.ErrNoMaster) {
		t.Fatalf("a write without a majority of those who knew: %v", err)
	}
	if got := lagging.node.Status().Term; got != term {
		t.Errorf("term %d, before %d: the pre-vote was passed", got, term)
	}
	master.start()
	master.awaitStart()
	wiped.awaitStart()
	c.awaitReady()
	for _, name := range c.list {
		c.pods[name].mustRead("k", "acknowledged")
	}
}

// A member that was removed while it was down finds out, sets its data aside
// and comes back as a new member, without disturbing anyone.
//
// Scenario: S14
func TestRemovedWhileDown(t *testing.T) {
	c := newCluster(t, 3).boot()
	p := c.pods["kv-2"]
	p.mustPut("k", "v")
	old := p.node.MemberID()
	p.kill()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	m := c.master()
	if _, err := m.node.answers.Leave(ctx, &peerv1.LeaveRequest{MemberId: string(old)}); err != nil {
		t.Fatal(err)
	}
	if n := len(m.node.Members()); n != 2 {
		t.Fatalf("%d members after a leave", n)
	}
	term := m.node.Status().Term
	p.start()
	p.awaitStart()
	select {
	case err := <-p.node.Failed():
		if !errors.Is(err, replication.ErrRetired) {
			t.Errorf("failed with %v", err)
		}
	case <-time.After(patient):
		t.Fatal("it was not told that it was removed")
	}
	p.kill()
	p.start()
	p.awaitStart()
	c.awaitReady()
	if p.node.MemberID() == old {
		t.Error("it kept its identity")
	}
	kept := filepath.Join(p.dir, "removed-"+strings.TrimPrefix(string(old), "kv-2/"), "member.json")
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("its data was not kept: %v", err)
	}
	if got := c.master().node.Status().Term; got != term {
		t.Errorf("term %d, before %d: there was an election", got, term)
	}
}

// A clone that is cut after any number of bytes is never taken for data.
//
// Scenario: S28
func TestCloneCutAtAnyByte(t *testing.T) {
	c := newCluster(t, 3)
	c.boot()
	c.pods["kv-0"].mustPut("k", strings.Repeat("v", 300_000))
	p := c.pods["kv-2"]
	p.kill()
	p.wipe()
	var cuts atomic.Int64
	c.net.change(func() {
		c.net.budget = func(from, to string) int {
			// Eight connections break somewhere; then the network is well.
			if from != "kv-2" || cuts.Add(1) > 8 {
				return -1
			}
			return 200 + rand.IntN(400_000)
		}
	})
	p.start()
	p.awaitStart()
	c.awaitReady()
	p.mustRead("k", strings.Repeat("v", 300_000))
}

// A read that waits for the answer of a voter goes on when that one is removed:
// nobody answers any more who would wake it.
func TestReadWhileTheOtherVoterIsRemoved(t *testing.T) {
	c := newCluster(t, 2).boot()
	master, other := c.master(), c.follower()
	e := master.node.engine.Load()
	c.net.isolate(other.name)
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	read := make(chan error, 1)
	go func() {
		_, err := e.reader.Confirm(ctx)
		read <- err
	}()
	if err := e.replica.Raft.RemoveServer(raft.ServerID(other.node.MemberID()), 0, patient).Error(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
}
