//go:build linux

package scenarios

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// S02: all pods are deleted, and created one after the other, each when the one
// before is ready; then one is missing.
func TestS02AllPodsDeleted(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	members := s.members(0)
	for _, policy := range []string{"OrderedReady", "Parallel"} {
		s.stop(0, 1, 2)
		if policy == "Parallel" {
			s.start(2, 0, 1)
		} else {
			for o := range 3 {
				s.start(o)
				s.awaitReady(o)
			}
		}
		if took := s.awaitWhole(0, 1, 2); took > 30*time.Second {
			t.Errorf("%s: whole after %s", policy, took)
		}
	}
	// The node of pod 0 is down: a quorum is enough.
	s.stop(1, 2)
	s.kill(0)
	s.start(1, 2)
	if took := s.eventually("a master without kv-0", whole, func() error {
		_, err := s.pods[1].status(false)
		if s.pods[1].readiness() != nil || s.pods[2].readiness() != nil {
			return fmt.Errorf("not ready: %v, %v", s.pods[1].readiness(), err)
		}
		return nil
	}); took > 30*time.Second {
		t.Errorf("a master after %s", took)
	}
	s.master()
	s.start(0)
	s.awaitWhole(0, 1, 2)
	if after := s.members(0); !slices.Equal(members, after) {
		t.Errorf("members %v, before %v", after, members)
	}
	s.verify(0, 1, 2)
}

// S06: what is on a new volume besides data, ordinals that begin at 5, twelve
// pods, and a data directory that is no mount.
func TestS06VolumesAndOrdinals(t *testing.T) {
	const first, count = 5, 12
	s := newSet(t, "here", first, count)
	mounted := s.volume(first)
	if err := os.MkdirAll(mounted, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(mounted, unix.MNT_DETACH) }) //nolint:errcheck // The namespace ends.
	for _, o := range []int{first, 9, 10} {
		if err := os.MkdirAll(filepath.Join(s.volume(o), "lost+found"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.start(10, 9)
	s.awaitUnready(10, "only kv-5 may found")
	s.start(first)
	s.awaitWhole(first, 9, 10)
	s.startLoad()
	// In the order of words the pod before kv-11 would be kv-10 too, and that
	// before kv-10 nobody.
	for from := 6; from < 9; from++ {
		s.start(from)
	}
	s.start(ordinals(11, first+count-11)...)
	s.awaitWhole(ordinals(first, count)...)
	for o := 11; o < first+count; o++ {
		if !s.said(o, "the database was cloned") {
			t.Errorf("%s did not clone", podName(o))
		}
	}
	for _, o := range []int{first, 9, 10} {
		if _, err := os.Stat(filepath.Join(s.volume(o), "lost+found")); err != nil {
			t.Error(err)
		}
	}
	const warning = "the data directory is not on a volume"
	if s.said(first, warning) || !s.said(9, warning) {
		t.Error("the warning is not for the data that is on no mount alone")
	}
	s.verify(ordinals(first, count)...)
}

// S12: from one pod to seven at once, one of which never starts.
func TestS12ScaleUp(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 1)
	l := s.startLoad()
	s.api.scale(7)
	gap := l.during("1 to 6 of 7", func() {
		s.start(6, 5, 3, 2, 1)
		s.awaitWhole(0, 1, 2, 3, 5, 6)
		time.Sleep(3 * time.Second)
	})
	if gap > 3*time.Second {
		t.Errorf("no write for %s", gap)
	}
	if n := len(s.members(0)); n != 6 {
		t.Errorf("%d members, with one pod that never started", n)
	}
	s.start(4)
	s.awaitWhole(ordinals(0, 7)...)
	s.verify(ordinals(0, 7)...)
}

// S13: down in steps and at once, and pods that had no time to leave.
// S14: up again, with the volumes of the pods that left.
//
// Scenario: S14
func TestS13ScaleDown(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 5)
	l := s.startLoad()
	for _, to := range []int{3, 2, 1} {
		s.scaleDown(to)
	}
	before := s.members(0)
	s.api.scale(5)
	s.start(ordinals(1, 4)...)
	s.awaitWhole(ordinals(0, 5)...)
	for o := 1; o < 5; o++ {
		aside, err := filepath.Glob(filepath.Join(s.volume(o), "removed-*"))
		if err != nil || len(aside) != 1 {
			t.Errorf("%s set aside %v, %v", podName(o), aside, err)
		}
	}
	if after := s.members(0); after[0] != before[0] {
		t.Errorf("kv-0 was %s, and is %s", before[0], after[0])
	}
	s.scaleDown(1)
	s.api.scale(3)
	s.start(1, 2)
	s.awaitWhole(0, 1, 2)
	s.api.scale(2)
	gap := l.during("3 to 2, killed", func() {
		s.kill(2)
		s.awaitWhole(0, 1)
	})
	if gap > 10*time.Second {
		t.Errorf("no write for %s", gap)
	}
	s.verify(0, 1)
}

// scaleDown ends the pods above as Kubernetes does, the highest first, and one
// when the one before has ended.
func (s *set) scaleDown(to int) {
	s.t.Helper()
	s.api.scale(to)
	gap := s.load.during("down to "+strconv.Itoa(to), func() {
		running := slices.Sorted(maps.Keys(s.pods))
		for _, o := range slices.Backward(running[to:]) {
			s.stop(o)
		}
		s.awaitWhole(ordinals(0, to)...)
	})
	if gap > 10*time.Second {
		s.t.Errorf("no write for %s", gap)
	}
}

var rounds = flag.Int("rounds", 4, "how often TestS15StopAndStart stops everything")

// S15: to zero and back, and the StatefulSet deleted and made again.
// S16: nothing of this is a departure.
//
// Scenario: S16
func TestS15StopAndStart(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	time.Sleep(time.Second)
	s.load.stop()
	members := s.members(0)
	for round := range *rounds {
		if round%2 == 0 {
			s.api.scale(0)
		} else {
			s.api.remove()
		}
		s.stop(0, 1, 2)
		s.api.scale(3)
		s.api.restore()
		s.start(0, 1, 2)
		s.awaitWhole(0, 1, 2)
		if after := s.members(0); !slices.Equal(members, after) {
			t.Errorf("round %d: members %v, before %v", round, after, members)
		}
	}
	s.eventually("the record is written back", 30*time.Second, func() error {
		if recorded := s.api.cluster(); recorded != s.cluster {
			return fmt.Errorf("it names %q", recorded)
		}
		return nil
	})
	s.verify(0, 1, 2)
}

// S16: restarts under load, of each pod and in each way, also while the API
// cannot be asked.
func TestS16RestartIsNoDeparture(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	members := s.members(0)
	for o := range 3 {
		s.stop(o)
		s.start(o)
		s.awaitWhole(0, 1, 2)
		s.kill(o)
		s.start(o)
		s.awaitWhole(0, 1, 2)
	}
	s.api.setAway(true)
	for o := range 3 {
		s.stop(o)
		s.start(o)
		s.awaitWhole(0, 1, 2)
	}
	s.api.setAway(false)
	if after := s.members(0); !slices.Equal(members, after) {
		t.Errorf("members %v, before %v", after, members)
	}
	s.verify(0, 1, 2)
}
