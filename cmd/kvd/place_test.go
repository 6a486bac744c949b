package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/kubernetes/place"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/node"
)

// awaitPlaces waits until volumes know where they belong.
func (s *statefulSet) awaitPlaces(names ...string) {
	s.t.Helper()
	s.eventually("all volumes have a place", func() error {
		for _, name := range names {
			if disk, err := node.Examine(s.volume(name)); err != nil || disk.Place == "" {
				return errors.Join(err, errors.New(name+" has none"))
			}
		}
		return nil
	})
}

// S11: volumes that are copied into another namespace serve nobody until one
// of them is adopted, and are a cluster of their own then.
//
// Scenario: S11
func TestCopiedVolumes(t *testing.T) {
	t.Parallel()
	original := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	original.startWhole(all...)
	before := original.status("kv-0")
	original.awaitPlaces(all...)
	original.stopAll(all...)

	copied := newStatefulSetIn(t, "there", 3)
	for _, name := range all {
		if err := os.CopyFS(copied.volume(name), os.DirFS(original.volume(name))); err != nil {
			t.Fatal(err)
		}
	}
	copied.start(all...)
	for _, name := range all {
		copied.eventually(name+" refuses", func() error {
			if err := copied.ready(name); err == nil || !strings.Contains(err.Error(), "kvd adopt") {
				return errors.Join(err, errors.New("it does not say kvd adopt"))
			}
			return nil
		})
	}
	c := copied.config("kv-1")
	disk, err := adopt(t.Context(), &c)
	if err != nil || disk.Replaces != before.GetClusterId() || disk.Cluster == disk.Replaces {
		t.Fatalf("%+v, %v", disk, err)
	}
	copied.awaitReady(all...)
	copied.awaitVoters("kv-0", all...)
	after := copied.status("kv-0")
	if after.GetClusterId() != disk.Cluster {
		t.Errorf("the copy is of cluster %s, adopted was %s", after.GetClusterId(), disk.Cluster)
	}
	if _, err := adopt(t.Context(), &c); err == nil {
		t.Error("a running pod was adopted")
	}
}

// S11: volumes that were copied at different moments. Two of them forgot what
// the third one has applied; with their votes they would go on without it, and it
// would join with data that differs.
//
// Scenario: S11
func TestCopiesOfDifferentMoments(t *testing.T) {
	t.Parallel()
	original := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	original.startWhole(all...)
	original.awaitPlaces(all...)
	copied := newStatefulSetIn(t, "there", 3)
	copyOf := func(names ...string) {
		original.stopAll(all...)
		for _, name := range names {
			if err := os.CopyFS(copied.volume(name), os.DirFS(original.volume(name))); err != nil {
				t.Fatal(err)
			}
		}
	}
	copyOf("kv-0", "kv-2")
	original.start(all...)
	original.awaitReady(all...)
	for range 20 {
		if _, err := original.put("kv-1", "late", "of the original"); err != nil {
			t.Fatal(err)
		}
	}
	original.mustHave("kv-1", "late", "of the original")
	copyOf("kv-1")

	copied.start("kv-0", "kv-2")
	copied.eventually("kv-0 refuses", func() error {
		if err := copied.ready("kv-0"); err == nil || !strings.Contains(err.Error(), "kvd adopt") {
			return errors.Join(err, errors.New("it does not say kvd adopt"))
		}
		return nil
	})
	c := copied.config("kv-0")
	if _, err := adopt(t.Context(), &c); err != nil {
		t.Fatal(err)
	}
	copied.eventually("the copy takes writes", func() error {
		_, err := copied.put("kv-0", "k", "of the copy")
		return err
	})
	copied.start("kv-1")
	copied.awaitReady(all...)
	copied.awaitVoters("kv-0", all...)
	for _, name := range all {
		copied.mustHave(name, "k", "of the copy")
		err := copied.kv(name, func(ctx context.Context, c kvv1.KVServiceClient) error {
			answer, err := c.Range(ctx, &kvv1.RangeRequest{Key: []byte("late")})
			if len(answer.GetKvs()) > 0 {
				t.Errorf("%s has %v, which the adopted copy does not have", name, answer.GetKvs())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// The copy that a person adopts must open and lead before any other is given up.
func TestAdoptedCopyThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	original := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	original.startWhole(all...)
	original.mustPut("kv-0", "k")
	original.awaitPlaces(all...)
	original.stopAll(all...)
	copied := newStatefulSetIn(t, "there", 3)
	for _, name := range all {
		if err := os.CopyFS(copied.volume(name), os.DirFS(original.volume(name))); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(copied.database("kv-1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied.database("kv-1"), make([]byte, len(whole)), 0o600); err != nil {
		t.Fatal(err)
	}
	copied.start("kv-0", "kv-2")
	c := copied.config("kv-1")
	if disk, err := adopt(t.Context(), &c); err == nil || !strings.Contains(err.Error(), "nothing was done") || copied.recorded() != "" {
		t.Fatalf("%+v, %v; the record: %s", disk, err, copied.recorded())
	}

	// It is chosen, and found to be damaged only later.
	disk, err := node.Examine(c.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	record := kubernetes.Record{Cluster: replication.AdoptedCluster(disk.Cluster, namespace+"/there"), Founder: string(disk.Member), Replaces: disk.Cluster}
	if err := c.kubernetes.ExchangeRecord(t.Context(), disk.Cluster, record); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kv-0", "kv-2"} {
		copied.eventually("it waits until the other one leads", func() error { return copied.refuses(name, "leads") })
		time.Sleep(2 * place.Pause) // It would have been given up by now.
		if disk, err := node.Examine(copied.volume(name)); err != nil || !disk.HasData || disk.Cluster == record.Cluster {
			t.Errorf("%s has given up its copy: %+v, %v", name, disk, err)
		}
	}
	if err := os.WriteFile(copied.database("kv-1"), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	copied.start("kv-1")
	copied.awaitReady(all...)
	copied.awaitVoters("kv-0", all...)
	copied.mustHave("kv-0", "k", "v")
}

// The pods of a backup come back with their labels: that one was a master where it
// was copied says nothing of the copy that is chosen.
func TestLabelsOfACopy(t *testing.T) {
	t.Parallel()
	original := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	original.startWhole(all...)
	original.awaitPlaces(all...)
	original.stopAll(all...)
	copied := newStatefulSetIn(t, "there", 3)
	for _, name := range all {
		if err := os.CopyFS(copied.volume(name), os.DirFS(original.volume(name))); err != nil {
			t.Fatal(err)
		}
	}
	c := copied.config("kv-2")
	if err := c.kubernetes.SetRole(t.Context(), "master"); err != nil {
		t.Fatal(err)
	}
	copied.start("kv-0", "kv-2")
	for _, name := range []string{"kv-0", "kv-2"} {
		copied.eventually("it waits for a person", func() error { return copied.refuses(name, "kvd adopt") })
	}
	chosen := copied.config("kv-1")
	disk, err := node.Examine(chosen.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	record := kubernetes.Record{Cluster: replication.AdoptedCluster(disk.Cluster, namespace+"/there"), Founder: string(disk.Member), Replaces: disk.Cluster}
	if err := chosen.kubernetes.ExchangeRecord(t.Context(), disk.Cluster, record); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * place.Pause)
	for _, name := range []string{"kv-0", "kv-2"} {
		if disk, err := node.Examine(copied.volume(name)); err != nil || !disk.HasData || disk.Cluster == record.Cluster {
			t.Errorf("%s has given up its copy, and nobody leads: %+v, %v", name, disk, err)
		}
	}
}

// The disk takes nothing when a pod wants to note its place: it serves, and notes it
// later.
func TestAPlaceThatCannotBeNoted(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 1)
	s.start("kv-0")
	s.awaitReady("kv-0")
	s.awaitPlaces("kv-0")
	s.stopAll("kv-0")
	path := filepath.Join(s.volume("kv-0"), "member.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw = regexp.MustCompile(`"place": "[^"]*"`).ReplaceAll(raw, []byte(`"place": ""`))
	if err := errors.Join(os.WriteFile(path, raw, 0o600), os.Mkdir(path+".tmp", 0o700)); err != nil {
		t.Fatal(err)
	}
	s.start("kv-0")
	s.awaitReady("kv-0")
	time.Sleep(place.Pause)
	if _, err := s.put("kv-0", "k", "v"); err != nil {
		t.Errorf("it does not serve: %v", err)
	}
	if err := os.Remove(path + ".tmp"); err != nil {
		t.Fatal(err)
	}
	s.awaitPlaces("kv-0")
}

// S15 and S19: the record goes with its StatefulSet, the pods that have data
// write it again, and the first pod's new disk joins.
//
// Scenario: S15, S19
func TestRecordIsWrittenBack(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	s.startWhole(all...)
	cluster := s.status("kv-0").GetClusterId()
	s.stopAll(all...)
	s.remove()
	s.applyRecord()
	s.create("set-2", 3)
	s.start("kv-1", "kv-2")
	s.awaitReady("kv-1", "kv-2")
	s.eventually("the record is back", func() error {
		if got := s.recorded(); got != cluster {
			return fmt.Errorf("it names %q", got)
		}
		return nil
	})
	if err := os.RemoveAll(s.volume("kv-0")); err != nil {
		t.Fatal(err)
	}
	s.start("kv-0")
	s.awaitReady("kv-0")
	s.awaitVoters("kv-0", all...)
	if after := s.status("kv-0"); after.GetClusterId() != cluster || slices.Contains(memberIDs(after), "") {
		t.Errorf("%v, the cluster was %s", memberIDs(after), cluster)
	}
}

// The ConfigMap of the record is deleted, and nobody may make it: the cluster goes on,
// and writes the record again once a person has applied the manifest.
func TestRecordIsMissing(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 1)
	s.start("kv-0")
	s.awaitReady("kv-0")
	cluster := s.status("kv-0").GetClusterId()
	if err := s.api.Tracker().Delete(recordsResource, namespace, "kv-cluster"); err != nil {
		t.Fatal(err)
	}
	s.stopAll("kv-0")
	s.start("kv-0")
	s.awaitReady("kv-0")
	s.mustPut("kv-0", "k")
	s.applyRecord()
	s.eventually("the record is back", func() error {
		if got := s.recorded(); got != cluster {
			return fmt.Errorf("it names %q", got)
		}
		return nil
	})
}

// The record is deleted, the first volume is lost, and all other pods are silent
// at once: nobody founds a second cluster, whether the record was made again, empty,
// or not.
//
// Scenario: S19
func TestFirstVolumeAndRecordLost(t *testing.T) {
	t.Parallel()
	for _, applied := range []bool{true, false} {
		t.Run(fmt.Sprintf("applied again: %t", applied), func(t *testing.T) { testFirstVolumeAndRecordLost(t, applied) })
	}
}

func testFirstVolumeAndRecordLost(t *testing.T, applied bool) {
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	s.startWhole(all...)
	cluster := s.status("kv-0").GetClusterId()
	if _, err := s.put("kv-0", "k", "v"); err != nil {
		t.Fatal(err)
	}
	s.mustHave("kv-2", "k", "v")
	s.stopAll(all...)
	if err := s.api.Resource(recordsResource).Namespace(namespace).Delete(t.Context(), "kv-cluster", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if applied {
		s.applyRecord()
	}
	s.wipe("kv-0")
	s.setPhase("Running", "kv-1", "kv-2")
	s.start("kv-0")
	s.eventually("kv-0 waits for the others' word", func() error {
		if err := s.ready("kv-0"); err == nil || !strings.Contains(err.Error(), "has not said that it is empty") {
			return errors.Join(err, errors.New("it does not"))
		}
		return nil
	})
	s.start("kv-1", "kv-2")
	s.awaitReady(all...)
	s.awaitVoters("kv-0", all...)
	if after := s.status("kv-0").GetClusterId(); after != cluster {
		t.Errorf("the cluster is %s, it was %s", after, cluster)
	}
	s.mustHave("kv-0", "k", "v")
}
