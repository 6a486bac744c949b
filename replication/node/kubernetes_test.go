package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
)

// inKubernetes lets the pods live as in Kubernetes: without a list of peers, with
// a record of who founded the cluster, and a word on which ordinals should exist.
func (c *cluster) inKubernetes(replicas func() int) *cluster {
	var mu sync.Mutex
	var cluster string
	var founder replication.MemberID
	c.adjust = func(o *replication.Options) {
		o.Peers = nil
		o.ExpectedOrdinals = func() (func(int) bool, bool) {
			n := replicas()
			return func(o int) bool { return o < n }, n > 0
		}
		first := o.Name == c.list[0]
		o.Founding = func(_ context.Context, m replication.MemberID, fresh bool, _ []string) (string, bool, error) {
			mu.Lock()
			defer mu.Unlock()
			if cluster == "" && !(first && fresh) {
				return "", false, errors.New("only kv-0 may found the cluster")
			}
			if cluster == "" {
				cluster, founder = uuid.NewString(), m
			}
			return cluster, founder == m, nil
		}
	}
	return c
}

// awaitPodReady waits until one pod says that it is ready.
func (p *pod) awaitPodReady() {
	p.c.t.Helper()
	p.c.eventually(p.name+" is ready", func() error {
		if s := p.node.Status(); !s.Ready {
			return errors.New(s.Because)
		}
		return nil
	})
}

// S02 and S19: all pods are deleted, and come back one after the other, the
// next one only once the one before is ready; the first of them with a new disk.
//
// Scenario: S02
func TestColdStartInOrder(t *testing.T) {
	for _, wiped := range []string{"", "kv-0", "kv-1", "kv-2"} {
		t.Run("wiped "+wiped, func(t *testing.T) {
			c := newCluster(t, 3).inKubernetes(func() int { return 3 })
			for _, name := range c.list {
				c.pods[name].start()
				c.pods[name].awaitPodReady()
			}
			c.awaitReady()
			id := c.pods["kv-0"].node.ClusterID()
			c.pods["kv-0"].mustPut("k", "v")
			c.pods["kv-1"].mustRead("k", "v")
			c.pods["kv-2"].mustRead("k", "v")
			for _, name := range c.list {
				c.pods[name].close(context.Background())
				c.net.change(func() { delete(c.net.addrs, name) })
			}
			if wiped != "" {
				c.pods[wiped].wipe()
			}
			for _, name := range c.list {
				c.pods[name].start()
				c.pods[name].awaitPodReady()
			}
			for _, name := range c.list {
				c.pods[name].awaitStart()
			}
			c.awaitReady()
			for _, name := range c.list {
				if got := c.pods[name].node.ClusterID(); got != id {
					t.Errorf("%s is of cluster %s, it was %s", name, got, id)
				}
				c.pods[name].mustRead("k", "v")
			}
		})
	}
}

// As above, and all pods are killed before any of them has written to its database
// that it became a member: it is in their logs only, and cannot be committed yet.
//
// Scenario: S02
func TestColdStartBeforeAFlush(t *testing.T) {
	c := newCluster(t, 3).inKubernetes(func() int { return 3 }).boot()
	for _, name := range c.list {
		c.pods[name].kill()
	}
	c.pods["kv-0"].wipe()
	for _, name := range c.list {
		c.pods[name].start()
		c.pods[name].awaitPodReady()
	}
	for _, name := range c.list {
		c.pods[name].awaitStart()
	}
	c.awaitReady()
}

// As above, with kv-0's volume lost, and the sign that it may found as well: it
// founds nothing, and is ready all the same, so that the pods with data are created.
//
// Scenario: S19
func TestColdStartWithoutASign(t *testing.T) {
	c := newCluster(t, 3).inKubernetes(func() int { return 3 })
	for _, name := range c.list {
		c.pods[name].start()
		c.pods[name].awaitPodReady()
	}
	c.awaitReady()
	id := c.pods["kv-0"].node.ClusterID()
	c.pods["kv-0"].mustPut("k", "v")
	c.pods["kv-2"].mustRead("k", "v")
	for _, name := range c.list {
		c.pods[name].close(context.Background())
		c.net.change(func() { delete(c.net.addrs, name) })
	}
	c.pods["kv-0"].wipe()
	kubernetesPod := c.adjust
	c.adjust = func(o *replication.Options) {
		kubernetesPod(o)
		o.Founding = func(_ context.Context, _ replication.MemberID, _ bool, empty []string) (string, bool, error) {
			if len(empty) > 0 {
				t.Errorf("%v say that they are empty", empty)
			}
			return "", false, errors.New("kv-1 has a volume, and has not said that it is empty")
		}
	}
	for _, name := range c.list {
		c.pods[name].start()
		c.pods[name].awaitPodReady()
	}
	for _, name := range c.list {
		c.pods[name].awaitStart()
	}
	c.awaitReady()
	if got := c.pods["kv-0"].node.ClusterID(); got != id {
		t.Errorf("kv-0 is of cluster %s, it was %s", got, id)
	}
	c.pods["kv-0"].mustRead("k", "v")
}

// With every pod there, one that misses a quorum is not ready: nothing would be
// gained, and clients would come.
//
// Scenario: S02
func TestNotColdWhenAllPodsExist(t *testing.T) {
	c := newCluster(t, 3).inKubernetes(func() int { return 3 }).boot()
	for _, name := range c.list {
		c.pods[name].close(context.Background())
	}
	c.pods["kv-0"].wipe()
	c.pods["kv-2"].wipe()
	for _, name := range c.list {
		c.pods[name].start()
	}
	survivor := c.pods["kv-1"]
	survivor.awaitStart()
	c.eventually("the wiped pods answer", func() error {
		if seen := survivor.node.inspect(t.Context(), []string{"kv-0", "kv-2"}); len(seen) != 2 {
			return fmt.Errorf("%v", seen)
		}
		return nil
	})
	c.eventually("nobody is ready", func() error {
		for _, name := range c.list {
			if s := c.pods[name].node.Status(); s.Ready {
				return errors.New(name + " is ready")
			}
		}
		return nil
	})
	lost := replication.Recovery{Lost: []string{"kv-0", "kv-2"}}
	if err := survivor.node.CheckRecovery(t.Context(), lost); err != nil {
		t.Errorf("a recovery is refused: %v", err)
	}
	if err := c.pods["kv-0"].node.CheckRecovery(t.Context(), lost); !errors.Is(err, replication.ErrRecoveryRefused) {
		t.Errorf("a recovery without data: %v", err)
	}
}

// 5 to 1 at once: all that go ask to be removed at the same time.
//
// Scenario: S13
func TestLeave(t *testing.T) {
	var replicas atomic.Int64
	replicas.Store(5)
	c := newCluster(t, 5).inKubernetes(func() int { return int(replicas.Load()) }).boot()
	replicas.Store(1)
	var all sync.WaitGroup
	for _, name := range c.list[1:] {
		p := c.pods[name]
		p.node.Stopping()
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patient)
			defer cancel()
			if err := p.node.Leave(ctx); err != nil {
				t.Errorf("%s: %v", p.name, err)
			}
			if disk := p.node.Disk(); disk.HasData {
				t.Errorf("%s has left and would use its data again", p.name)
			}
		})
	}
	all.Wait()
	for _, name := range c.list[1:] {
		c.pods[name].close(context.Background())
	}
	first := c.pods["kv-0"]
	if ms := first.node.Members(); len(ms) != 1 || ms[0].Pod != "kv-0" {
		t.Errorf("members %v", ms)
	}
	first.mustPut("k", "v")
	replicas.Store(2)
	c.pods["kv-1"].start()
	c.pods["kv-1"].awaitStart()
	c.pods["kv-1"].awaitPodReady()
	c.pods["kv-1"].mustRead("k", "v")
}

// The first pod loses its volume, the record is lost, and the StatefulSet is scaled
// down to it, while the others still run: it is one of them, and founds nothing.
//
// Scenario: S19
func TestNobodyFoundsBesideDataThatAnswers(t *testing.T) {
	var replicas atomic.Int64
	replicas.Store(3)
	c := newCluster(t, 3).inKubernetes(func() int { return int(replicas.Load()) }).boot()
	cluster, first := c.pods["kv-1"].node.ClusterID(), c.pods["kv-0"]
	first.kill()
	first.wipe()
	replicas.Store(1)
	adjust := c.adjust
	c.adjust = func(o *replication.Options) {
		adjust(o)
		o.Founding = func(_ context.Context, _ replication.MemberID, fresh bool, _ []string) (string, bool, error) {
			if fresh {
				return uuid.NewString(), true, nil
			}
			return "", false, errors.New("there is no record")
		}
	}
	first.start()
	first.awaitStart()
	if got := first.node.ClusterID(); got != cluster {
		t.Errorf("it founded %s beside %s", got, cluster)
	}
}

// A pod without data whose ordinal is not wanted clones nothing, and holds up no
// scale-down; wanted again, it joins.
func TestUnwantedPod(t *testing.T) {
	var replicas atomic.Int64
	replicas.Store(3)
	c := newCluster(t, 3).inKubernetes(func() int { return int(replicas.Load()) })
	c.pods["kv-0"].start()
	c.pods["kv-0"].awaitPodReady()
	replicas.Store(2)
	p := c.pods["kv-2"]
	p.start()
	p.awaitPodReady()
	if s := p.node.Status(); !s.Cold || p.node.Disk().Cluster != "" {
		t.Errorf("%+v, of cluster %q", s, p.node.Disk().Cluster)
	}
	replicas.Store(3)
	p.awaitStart()
	p.awaitPodReady()
	c.pods["kv-1"].start()
	c.pods["kv-1"].awaitStart()
	c.awaitReady()
}

// A pod is taken in, and out again, by an old word on which ordinals should
// exist, before it has heard of either: when the word is right again it must hear
// that it was removed, for under its name it is never taken in again.
func TestRemovedBeforeItKnew(t *testing.T) {
	var replicas atomic.Int64
	replicas.Store(4)
	c := newCluster(t, 3).inKubernetes(func() int { return int(replicas.Load()) }).boot()
	e := c.master().node.engine.Load()
	s := c.master().node.answers
	id := replication.MemberID("kv-3/" + uuid.NewString()) // Nobody is there.
	join := func() *peerv1.JoinResponse {
		t.Helper()
		answer, err := s.Join(t.Context(), &peerv1.JoinRequest{MemberId: string(id), Address: string(id)})
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	is := func(member bool) func() error {
		return func() error {
			if _, latest := members(e.replica.Configuration()).Find(id); latest != member {
				return fmt.Errorf("a member: %t", latest)
			}
			if member && join().Removed {
				t.Fatal("it is told that it was removed")
			}
			return nil
		}
	}
	join()
	c.eventually("the pod is taken in", is(true))
	replicas.Store(3)
	c.eventually("the pod is taken out", is(false))
	replicas.Store(4)
	c.eventually("the pod hears that it was removed", func() error {
		if !join().Removed {
			return errors.New("it does not")
		}
		return nil
	})
}

// A pod whose new disk does not vote yet, while its old one still does, and the
// next pod is yet to be created: it must be ready, or that one never is. So must
// one beside a pod whose data is damaged, or whose later log has a membership that
// waits for the next pod, too.
//
// Scenario: S02
func TestColdBesideADiskThatCannotVote(t *testing.T) {
	c := newCluster(t, 3).boot()
	c.awaitWhole(nil)
	n := c.pods["kv-1"].node
	e, first := n.engine.Load(), string(c.pods["kv-0"].node.MemberID())
	c.net.change(func() { delete(c.net.addrs, "kv-2") })
	for _, tc := range []struct {
		what string
		self replication.MemberID
		kv0  *peerv1.InspectResponse
		cold bool
	}{
		{"both vote", e.self, &peerv1.InspectResponse{MemberId: first}, false},
		{"its old disk voted", "kv-1/new", &peerv1.InspectResponse{MemberId: first}, true},
		{"the other is damaged", e.self, &peerv1.InspectResponse{MemberId: first, Condemned: true}, true},
		{"the other waits, and has the later log", e.self, &peerv1.InspectResponse{MemberId: first, Cold: true, LastLogTerm: 1000}, true},
		{"the other waits, and votes for this one", e.self, &peerv1.InspectResponse{MemberId: first, Cold: true}, false},
	} {
		a := &joiner{engine: &engine{self: tc.self, replica: e.replica}, node: n}
		if cold := a.quorum(seenAs(map[string]*peerv1.InspectResponse{"kv-0": tc.kv0})).Missing(); cold != tc.cold {
			t.Errorf("%s: cold %t", tc.what, cold)
		}
	}
}

// The first pod of six loses its volume, and the last one is the master: further
// away than a pod looks that does not know how many there should be. It hears of
// it from the others. (Simulation, seed 4 with the fault "a tail after a clone".)
func TestMasterFarAbove(t *testing.T) {
	for name, known := range map[string]bool{"how many is known": true, "how many is not known": false} {
		t.Run(name, func(t *testing.T) {
			var replicas atomic.Int64
			replicas.Store(6)
			c := newCluster(t, 6).inKubernetes(func() int { return int(replicas.Load()) }).boot()
			before := c.memberIDs()
			c.master().mustPut("k", "v")
			c.eventually("the last pod is the master", func() error {
				if m := c.master(); m.name != "kv-5" {
					_, err := m.node.HandOver(t.Context(), "kv-5")
					return errors.Join(err, fmt.Errorf("%s is", m.name))
				}
				return nil
			})
			if !known {
				replicas.Store(0)
			}
			first := c.pods["kv-0"]
			first.kill()
			first.wipe()
			first.start()
			first.awaitStart()
			first.mustRead("k", "v")
			replicas.Store(6)
			c.awaitWhole(before, first)
		})
	}
}

// All pods are deleted, and come back in order; kv-0 has found before that its data
// is of no use, or finds now that it cannot even vote. Its data is needed until all
// others vote, and they are only created once it is ready.
func TestColdStartWithUselessData(t *testing.T) {
	for name, votes := range map[string]bool{"that votes": true, "that cannot vote": false} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3).inKubernetes(func() int { return 3 }).boot()
			before := c.memberIDs()
			c.master().mustPut("k", "v")
			first := c.pods["kv-0"]
			for _, name := range c.list {
				c.pods[name].kill()
			}
			if votes {
				first.condemn()
			} else if err := os.RemoveAll(filepath.Join(first.dir, "raft")); err != nil {
				t.Fatal(err)
			}
			first.start()
			if votes {
				first.awaitStart()
			} else if err := <-first.started; !errors.Is(err, replication.ErrDamaged) {
				t.Fatal(err)
			} else {
				first.recloning()
			}
			for _, name := range c.list[1:] {
				first.awaitPodReady()
				c.pods[name].start()
				c.pods[name].awaitStart()
				c.pods[name].awaitPodReady()
			}
			first.awaitRetired()
			first.start()
			first.awaitStart()
			c.awaitWhole(before, first)
			first.mustRead("k", "v")
		})
	}
}

// As above, and the cluster runs: it is a pod above that is created again.
func TestUselessDataHoldsUpNoPod(t *testing.T) {
	c := newCluster(t, 3).inKubernetes(func() int { return 3 }).boot()
	before := c.memberIDs()
	first, last := c.pods["kv-0"], c.pods["kv-2"]
	last.kill()
	first.recloning()
	c.eventually("it is ready all the same", func() error {
		if s := first.node.Status(); !s.Cold || first.node.condemned() == "" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	last.start()
	last.awaitStart()
	first.awaitRetired()
	first.start()
	first.awaitStart()
	c.awaitWhole(before, first)
}
