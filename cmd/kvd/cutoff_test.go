package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication/node"
)

// cutOff is the configuration of a pod that reaches no other, and that no other
// one reaches.
func (s *statefulSet) cutOff(name string) config {
	s.t.Helper()
	c := s.config(name)
	c.listenPeer = freeAddress(s.t)
	c.addresses = maps.Clone(c.addresses)
	for other := range c.addresses {
		c.addresses[other] = freeAddress(s.t)
	}
	c.addresses[name] = c.listenPeer
	return c
}

// setPhase is what Kubernetes says of pods.
func (s *statefulSet) setPhase(phase string, names ...string) {
	s.t.Helper()
	for _, name := range names {
		object, err := s.api.Tracker().Get(podsResource, namespace, name)
		if err != nil {
			s.t.Fatal(err)
		}
		pod := object.(*unstructured.Unstructured)
		err = errors.Join(unstructured.SetNestedField(pod.Object, phase, "status", "phase"), s.api.Tracker().Update(podsResource, pod, namespace))
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// A person runs kvd recover in a pod that is only cut off from a healthy
// majority. It is refused; and when it cannot be, because nobody knows better,
// the majority goes on, and the record is its own again.
//
// Scenario: S45
func TestRecoverWhereOnlyCutOff(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	s.startWhole(all...)
	before := s.recorded()
	s.stopAll("kv-2")
	c := s.cutOff("kv-2")
	s.startWith(c)
	s.eventually("the cut off pod has no master", func() error {
		if err := s.ready("kv-2"); err == nil || !strings.Contains(err.Error(), "no master") {
			return errors.Join(err, errors.New("it has one"))
		}
		return nil
	})
	if _, err := s.put("kv-0", "k", "by the majority"); err != nil {
		t.Fatal(err)
	}

	refused := func(because string, lost ...string) {
		t.Helper()
		if _, err := recoverPod(t.Context(), &c, lost); err == nil || !strings.Contains(err.Error(), because) {
			t.Errorf("with %v lost: %v, not %q", lost, err, because)
		}
		s.setAway(false)
		if got := s.recorded(); got != before {
			t.Errorf("the record names %s, it was %s", got, before)
		}
	}
	refused("may only be out of reach")
	s.setPhase("Running", "kv-0", "kv-1")
	refused("Kubernetes says that it runs", "kv-0", "kv-1")
	s.setAway(true)
	refused("what became of it is not known", "kv-0", "kv-1")

	// Nothing but the person's word is left, and it is wrong.
	s.setPhase("Pending", "kv-0", "kv-1")
	if _, err := recoverPod(t.Context(), &c, []string{"kv-0", "kv-1"}); err != nil {
		t.Fatal(err)
	}
	s.eventually("the record is put right", func() error {
		if got := s.recorded(); got != before {
			return errors.New(got)
		}
		return nil
	})
	for _, name := range []string{"kv-0", "kv-1"} {
		if err := s.ready(name); err != nil {
			t.Errorf("%s has yielded: %v", name, err)
		}
		s.mustHave(name, "k", "by the majority")
	}
	if _, err := s.put("kv-1", "k", "again"); err != nil {
		t.Error(err)
	}
	// It ends, unless the record was put right before it served.
	s.eventually("the recovered pod does not serve beside the majority", func() error {
		select {
		case err := <-s.pods["kv-2"].ended:
			if err == nil || !strings.Contains(err.Error(), "had a quorum") {
				t.Errorf("the recovered pod has ended with %v", err)
			}
			s.start("kv-2")
		default:
		}
		return s.refuses("kv-2", "had a quorum")
	})
}

// refuses is nil when a pod is not ready, and says so.
func (s *statefulSet) refuses(name, because string) error {
	if err := s.ready(name); err == nil || !strings.Contains(err.Error(), because) {
		return errors.Join(err, fmt.Errorf("%s does not say: %s", name, because))
	}
	return nil
}

// A recovery is decided, and the pod dies before it is done; meanwhile the pods that
// were only cut off have put the record back.
func TestADecidedRecoveryThatWasUndone(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 1)
	s.start("kv-0")
	s.awaitReady("kv-0")
	s.eventually("there is a record", func() error {
		if got := s.recorded(); got != s.status("kv-0").GetClusterId() {
			return errors.New(got)
		}
		return nil
	})
	before := s.recorded()
	s.stopAll("kv-0")
	c := s.config("kv-0")
	r := c.recovery(nil, nil, nil)
	r.Cluster, r.Logger = "c2", newLogger(io.Discard, &c)
	r.Write = func(context.Context, string, io.Reader, []byte) error { return errRecover }
	if disk, err := node.Recover(t.Context(), r); !errors.Is(err, errRecover) || disk.Successor != "c2" {
		t.Fatalf("%+v, %v", disk, err)
	}
	s.start("kv-0")
	s.eventually("it does not serve", func() error { return s.refuses("kv-0", "had a quorum") })
	if disk, err := node.Examine(c.dataDir); err != nil || disk.Cluster != before {
		t.Errorf("%+v, %v", disk, err)
	}
}

// The API exchanges the record, and its answer is lost: the record says what is
// true. If that cannot be read either, the command says so, and goes on when it is
// run again.
func TestAnExchangeWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	for _, away := range []bool{false, true} {
		s := newStatefulSet(t, 1)
		s.start("kv-0")
		s.awaitReady("kv-0")
		s.mustPut("kv-0", "k")
		s.eventually("there is a record", func() error {
			if got := s.recorded(); got != s.status("kv-0").GetClusterId() {
				return errors.New(got)
			}
			return nil
		})
		before := s.recorded()
		s.stopAll("kv-0")
		s.api.PrependReactor("update", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
			update := a.(clienttesting.UpdateAction).GetObject()
			s.setAway(away)
			return true, nil, errors.Join(s.api.Tracker().Update(recordsResource, update, namespace), context.DeadlineExceeded)
		})
		c := s.config("kv-0")
		_, err := recoverPod(t.Context(), &c, nil)
		s.setAway(false)
		after := s.recorded()
		if after == before || (err != nil) != away || away && !strings.Contains(err.Error(), "run the command again") {
			t.Fatalf("the record named %s, now %s; %v", before, after, err)
		}
		if away {
			if _, err := recoverPod(t.Context(), &c, nil); err != nil {
				t.Fatal(err)
			}
		}
		s.start("kv-0")
		s.awaitReady("kv-0")
		s.mustHave("kv-0", "k", "v")
		if got := s.status("kv-0").GetClusterId(); got != after || s.recorded() != after {
			t.Errorf("it is of cluster %s, the record named %s, and %s now", got, after, s.recorded())
		}
	}
}

// A recovery that is cut after any of its decisions goes on at the next start:
// after the exchange of the record, and after the note on the disk.
//
// Scenario: S20
func TestRecoveryGoesOn(t *testing.T) {
	t.Parallel()
	for _, cut := range []string{"the record is exchanged", "it is noted on the disk"} {
		t.Run(cut, func(t *testing.T) {
			s := newStatefulSet(t, 1)
			s.start("kv-0")
			s.awaitReady("kv-0")
			if _, err := s.put("kv-0", "k", "v"); err != nil {
				t.Fatal(err)
			}
			s.eventually("the volume has a place", func() error {
				if disk, err := node.Examine(s.volume("kv-0")); err != nil || disk.Place == "" {
					return errors.Join(err, errors.New("it has none"))
				}
				return nil
			})
			s.stopAll("kv-0")
			c := s.config("kv-0")
			disk, err := node.Examine(c.dataDir)
			if err != nil {
				t.Fatal(err)
			}
			err = c.kubernetes.ExchangeRecord(t.Context(), disk.Cluster, kubernetes.Record{Cluster: "c2", Founder: string(disk.Member), Replaces: disk.Cluster})
			if err != nil {
				t.Fatal(err)
			}
			if cut == "it is noted on the disk" {
				full := errors.New("no space")
				r := c.recovery(nil, nil, nil)
				r.Cluster = "c2"
				r.Write = func(context.Context, string, io.Reader, []byte) error { return full }
				r.Logger = newLogger(io.Discard, &c)
				if disk, err := node.Recover(t.Context(), r); !errors.Is(err, full) || disk.Successor != "c2" || disk.Cluster == "c2" {
					t.Fatalf("%+v, %v", disk, err)
				}
				s.setAway(true)
			}
			s.start("kv-0")
			if cut == "it is noted on the disk" {
				s.eventually("it waits for the record", func() error { return s.refuses("kv-0", "cannot be read") })
				s.setAway(false)
			}
			s.awaitReady("kv-0")
			s.mustHave("kv-0", "k", "v")
			if got := s.status("kv-0").GetClusterId(); got != "c2" {
				t.Errorf("it is of cluster %s", got)
			}
		})
	}
}
