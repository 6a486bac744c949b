package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/batondb/baton/replication"
)

// verifying makes a cluster of pods with what each of them reads from its disk, which all
// take for what they have applied. The first is the master.
func verifying(t *testing.T, values ...string) []*fakePod {
	t.Helper()
	pods := newPods(t, values...)
	wire(pods...)
	return pods
}

// newPods makes them, and no cluster yet.
func newPods(t *testing.T, values ...string) (pods []*fakePod) {
	t.Helper()
	for i, value := range values {
		p := newPod(t, fmt.Sprintf("kv-%d", i), func(o *Options) {
			o.VerifyInterval, o.VerifyBytesPerSecond = 20*time.Millisecond, 1<<30
		})
		for range 3 {
			p.store.put(value)
		}
		pods = append(pods, p)
	}
	return pods
}

func (l *fakeLog) gaveUp() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recloned
}

// A pod reads something else from its disk than the others. The one that a majority
// contradicts gives up its data, the master, too; the others go on.
//
// Scenario: S21
func TestDataAtRestThatDiffers(t *testing.T) {
	for name, test := range map[string]struct {
		values []string
		wrong  int
	}{
		"a follower":  {[]string{"a", "b", "a"}, 1},
		"the master":  {[]string{"b", "a", "a"}, 0},
		"one of five": {[]string{"a", "a", "a", "b", "a"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pods := verifying(t, test.values...)
			await(t, "the pod that differs gives up", func() bool { return pods[test.wrong].log.gaveUp() != "" })
			if why := pods[test.wrong].log.gaveUp(); !strings.Contains(why, "at rest") {
				t.Errorf("it says %q", why)
			}
			wantReason(t, reads(t, pods[test.wrong]), notReady)
			for i, p := range pods {
				if i == test.wrong {
					continue
				}
				await(t, "another goes on", func() bool { return reads(t, p) == nil })
				if why := p.log.gaveUp(); why != "" {
					t.Errorf("%s has given up, too: %s", p.log.name, why)
				}
			}
		})
	}
}

// Where nobody can tell who is wrong the master alone serves, and says so, until somebody
// can.
//
// Scenario: S21
func TestDataAtRestThatNobodyCanJudge(t *testing.T) {
	for name, values := range map[string][]string{
		"two pods": {"a", "b"}, "three that differ": {"a", "b", "c"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pods := verifying(t, values...)
			for _, p := range pods[1:] {
				await(t, "a follower is in doubt", func() bool { return reads(t, p) != nil })
				if because := strings.Join(p.readiness.because(), " "); !strings.Contains(because, "kv-0") {
					t.Errorf("%s is not ready because %q", p.log.name, because)
				}
			}
			await(t, "an alarm", func() bool { return len(pods[0].log.PodStatus(t.Context()).GetAlarms()) == 1 })
			await(t, "the master serves", func() bool { return reads(t, pods[0]) == nil })
			for _, p := range pods {
				if why := p.log.gaveUp(); why != "" {
					t.Errorf("%s has given up: %s", p.log.name, why)
				}
			}
			for _, p := range pods { // The part is written again.
				p.store.put("new")
			}
			for _, p := range pods {
				await(t, "all serve, without an alarm", func() bool {
					return reads(t, p) == nil && len(p.log.PodStatus(t.Context()).GetAlarms()) == 0
				})
			}
		})
	}
}

// What differs are changes that later ones have replaced, each with the version that it
// replaced: as with keys, until they are compacted.
//
// Scenario: S21
func TestHistoryThatNobodyCanJudge(t *testing.T) {
	t.Parallel()
	pods := newPods(t, "a", "b", "c")
	for _, p := range pods {
		p.store.put("same")
		p.store.put("same")
	}
	wire(pods...)
	for _, p := range pods[1:] {
		await(t, "a follower is in doubt", func() bool { return reads(t, p) != nil })
	}
	await(t, "the master serves", func() bool { return reads(t, pods[0]) == nil })
	for _, p := range pods {
		p.store.compact(p.store.Revision())
	}
	for _, p := range pods {
		await(t, "all serve, without an alarm", func() bool {
			return reads(t, p) == nil && len(p.log.PodStatus(t.Context()).GetAlarms()) == 0
		})
	}
}

// To divide a part takes long where a pod is slow to answer. Nothing is read meanwhile.
func TestNothingIsReadWhileAPartIsDivided(t *testing.T) {
	t.Parallel()
	pods := newPods(t, "a", "b", "c")
	for _, p := range pods {
		for range 12 {
			p.store.put("same")
		}
		p.log.slow = 500 * time.Millisecond
	}
	wire(pods...)
	for _, p := range pods[1:] {
		await(t, "a follower is in doubt", func() bool { return reads(t, p) != nil })
	}
}

// A compaction takes the beginning of a part in which pods differ. The rest is in doubt
// still.
func TestPartThatIsCompactedInDoubt(t *testing.T) {
	t.Parallel()
	pods := newPods(t, "a", "b")
	for _, p := range pods {
		p.core.options.VerifyBytesPerSecond = -1
		p.store.put("same")
	}
	wire(pods...)
	part, _, err := pods[1].store.Part(t.Context(), replication.Part{History: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		p.store.compact(3)
	}
	pods[1].core.settlePart(t.Context(), part)
	wantReason(t, reads(t, pods[1]), notReady)
}

// A third pod that was away decides when it is back.
func TestDataAtRestOfAThirdPod(t *testing.T) {
	pods := verifying(t, "a", "b", "a")
	pods[2].log.setMark(0)
	await(t, "the follower is in doubt", func() bool { return reads(t, pods[1]) != nil })
	if why := pods[1].log.gaveUp(); why != "" {
		t.Fatalf("one pod has outvoted it: %s", why)
	}
	pods[2].log.setMark(42)
	await(t, "it gives up", func() bool { return pods[1].log.gaveUp() != "" })
}

// A round over data that agrees ends, is shown, and counts what could not be compared.
func TestVerificationIsShown(t *testing.T) {
	pods := verifying(t, "a", "a", "a")
	line := func(p *fakePod) string { return strings.Join(p.readiness.notes.all(), "\n") }
	for _, p := range pods {
		await(t, "a round", func() bool { return strings.Contains(line(p), "verified: all of it by ") })
		if strings.Contains(line(p), "not be compared") {
			t.Errorf("%s: %s", p.log.name, line(p))
		}
	}
	silent := newPods(t, "a", "a")
	silent[0].log.mark.Hash = 0
	wire(silent...)
	await(t, "a master that does not tell", func() bool { return strings.Contains(line(silent[1]), "2 of 2 parts could not be compared") })
	if len(silent[1].readiness.because()) > 0 {
		t.Error("a follower is not ready because the master does not tell")
	}
	off := newPod(t, "kv-0", func(o *Options) { o.VerifyBytesPerSecond = -1 })
	if got := line(off); !strings.Contains(got, "turned off") {
		t.Error(got)
	}
}

// Whoever asks all the time gets a fifth of this pod's time, and takes none of the others'.
func TestPodsTakeTurnsToBeCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doubts := newPartDoubts()
		began := time.Now()
		var asking sync.WaitGroup
		for range 10 {
			asking.Go(func() {
				end, err := doubts.turn(t.Context(), "kv-1")
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Second)
				end()
			})
		}
		synctest.Wait()
		end, err := doubts.turn(t.Context(), "kv-2")
		if err != nil || time.Since(began) != 0 {
			t.Errorf("another pod has waited for %s: %v", time.Since(began), err)
		}
		end()
		asking.Wait()
		if took := time.Since(began); took != 46*time.Second {
			t.Errorf("ten parts of a second each took %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := doubts.turn(ctx, "kv-1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a turn that never came: %v", err)
		}
		if end, err := doubts.turn(t.Context(), "kv-1"); err != nil {
			t.Error(err)
		} else {
			end()
		}
	})
}

// What another pod asks about is bounded where it comes in; a part that nobody has is
// only another one.
func TestComparePartOfAnother(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.store.put("a")
	own, err := p.ComparePart(t.Context(), "kv-1", replication.Part{From: []byte("x"), To: []byte("a"), Revision: 1})
	if err != nil || own.Versions != 0 {
		t.Errorf("%+v, %v", own, err)
	}
}
