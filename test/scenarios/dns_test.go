//go:build linux

package scenarios

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// S01: the pods start in any order, and the lowest ordinal founds the cluster.
func TestS01FirstBoot(t *testing.T) {
	t.Parallel()
	s := newSet(t, "here", 0, 3)
	s.start(2, 1)
	s.awaitUnready(2, "only kv-0 may found")
	s.awaitUnready(1, "only kv-0 may found")
	s.start(0)
	if took := s.awaitWhole(0, 1, 2); took > whole {
		t.Errorf("took %s", took)
	}
	if recorded := s.api.cluster(); recorded != s.cluster {
		t.Errorf("the record names %s, the cluster is %s", recorded, s.cluster)
	}
	if s.said(1, "founds the cluster") || s.said(2, "founds the cluster") {
		t.Error("another pod than kv-0 founded a cluster")
	}
	s.startLoad()
	time.Sleep(time.Second)
	s.verify(0, 1, 2)
}

// S04: names that do not resolve, for whatever reason, delay and decide nothing.
func TestS04NamesThatDoNotResolve(t *testing.T) {
	t.Parallel()
	s := newSet(t, "here", 0, 5)
	s.start(0)
	s.awaitReady(0)
	s.startLoad()
	for o, m := range map[int]mood{1: failing, 2: silent, 3: slow} {
		names.become(s.service, m)
		s.start(o)
		time.Sleep(2 * time.Second)
		if s.pods[o].readiness() == nil || s.said(o, "founds the cluster") {
			t.Errorf("%s did not wait", podName(o))
		}
		names.become(s.service, healthy)
		if took := s.awaitWhole(slices.Sorted(maps.Keys(s.pods))...); took > joinLimit {
			t.Errorf("took %s", took)
		}
	}
	p := s.startAt(4, nextAddress()) // Its record comes later.
	time.Sleep(2 * time.Second)
	names.set(p.host, p.ip)
	if took := s.awaitWhole(ordinals(0, 5)...); took > joinLimit {
		t.Errorf("took %s", took)
	}
	s.verify(ordinals(0, 5)...)
}

// joinLimit: 5 s, and again as much on a machine that has no time.
const joinLimit = 10 * time.Second

// S05: without DNS nothing changes as long as nothing moves; a pod that moved is
// found once its record is right.
func TestS05WithoutDNS(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	l := s.startLoad()
	time.Sleep(time.Second) // The clients have found the pods.
	for _, m := range []mood{silent, failing} {
		names.become(s.service, m)
		if gap := l.during("without DNS", func() { time.Sleep(4 * time.Second) }); gap > 2*time.Second {
			t.Errorf("no write for %s", gap)
		}
	}
	moved := s.followers()[0]
	s.kill(moved)
	s.start(moved)
	time.Sleep(2 * time.Second)
	names.become(s.service, healthy)
	if took := s.awaitWhole(0, 1, 2); took > 10*time.Second {
		t.Errorf("it replicates only after %s", took)
	}
	s.verify(0, 1, 2)
}

// S07: a pod comes back with another address, while DNS gives the old one for a
// while, which nobody has.
func TestS07OneAddressChanges(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	for _, who := range []string{"follower", "master"} {
		moved, other := s.followers()[1], s.followers()[0]
		if who == "master" {
			moved = s.master()
		}
		members, term := s.members(other), s.term(other)
		s.kill(moved)
		p := s.startAt(moved, nextAddress())
		time.Sleep(2 * time.Second)
		names.set(p.host, p.ip)
		if took := s.awaitWhole(0, 1, 2); took > 15*time.Second {
			t.Errorf("the %s was back after %s", who, took)
		}
		if after := s.members(other); !slices.Equal(members, after) {
			t.Errorf("the %s: members %v, before %v", who, after, members)
		}
		if after := s.term(other); who == "follower" && after != term {
			t.Errorf("the %s: term %d, before %d", who, after, term)
		}
	}
	s.verify(0, 1, 2)
}

// S08: all pods come back with other addresses at once.
func TestS08AllAddressesChange(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	l := s.startLoad()
	time.Sleep(time.Second)
	members := s.members(0)
	gap := l.during("all pods killed", func() {
		s.kill(0, 1, 2)
		s.start(2, 1, 0)
		s.awaitWhole(0, 1, 2)
	})
	if gap > 30*time.Second {
		t.Errorf("no write for %s", gap)
	}
	if after := s.members(0); !slices.Equal(members, after) {
		t.Errorf("members %v, before %v", after, members)
	}
	s.verify(0, 1, 2)
}

// S09: the name of a pod leads to another cluster's pod, and to another ordinal's.
// S11: neither cluster is changed by that.
//
// Scenario: S11
func TestS09AddressOfAnotherPod(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	moved := s.followers()[1]
	other := newSet(t, "elsewhere", moved, 1)
	// A client may follow a name to another cluster's pod, which asks nobody whom
	// they want; this is about the peers.
	other.apart = true
	other.start(moved)
	other.awaitWhole(moved)
	other.startLoad()
	host := s.pods[moved].host
	term, otherTerm := s.term(s.master()), other.term(moved)
	// Who calls sees at once that the certificate is not that of the pod it wants, and says
	// nothing more.
	for reason, led := range map[string]*pod{"not_secured": other.pods[moved], "malformed": s.pods[s.master()]} {
		s.kill(moved)
		names.set(host, led.ip)
		before := led.refused(reason)
		p := s.startAt(moved, nextAddress())
		s.eventually("connections are refused and counted", 20*time.Second, func() error {
			if n := led.refused(reason) - before; n < 3 {
				return fmt.Errorf("%d of the reason %s", n, reason)
			}
			return nil
		})
		names.set(host, p.ip)
		if took := s.awaitWhole(0, 1, 2); took > 15*time.Second {
			t.Errorf("%s: whole again after %s", reason, took)
		}
	}
	if after := s.term(s.master()); after != term {
		t.Errorf("term %d, before %d", after, term)
	}
	if after := other.term(moved); after != otherTerm {
		t.Errorf("the other cluster's term is %d, before %d", after, otherTerm)
	}
	s.verify(0, 1, 2)
	other.verify(moved)
	if s.cluster == other.cluster {
		t.Error("the clusters have one uuid")
	}
}

// S03: pods that are not ready have no name. A line says so, and when they get
// one everything is well.
func TestS03UnpublishedAddresses(t *testing.T) {
	t.Parallel()
	s := newSet(t, "here", 0, 3)
	s.start(0)
	s.awaitReady(0)
	s.startLoad()
	s.unpublished = true
	s.start(1)
	s.eventually("a line names publishNotReadyAddresses", 30*time.Second, func() error {
		if !s.said(0, "publishNotReadyAddresses") && !s.said(1, "publishNotReadyAddresses") {
			return errors.New("none does")
		}
		return nil
	})
	s.unpublished = false
	names.set(s.pods[1].host, s.pods[1].ip)
	s.start(2)
	s.verify(0, 1, 2)
}
