package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// kv calls a pod's client port.
func (s *statefulSet) kv(name string, call func(ctx context.Context, c kvv1.KVServiceClient) error) error {
	s.t.Helper()
	return s.call(name, func(ctx context.Context, conn *grpc.ClientConn) error {
		return call(ctx, kvv1.NewKVServiceClient(conn))
	})
}

func (s *statefulSet) put(name, key, value string) (revision int64, err error) {
	err = s.kv(name, func(ctx context.Context, c kvv1.KVServiceClient) error {
		answer, err := c.Put(ctx, &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)})
		revision = answer.GetHeader().GetRevision()
		return err
	})
	return revision, err
}

func (s *statefulSet) mustHave(name, key, value string) {
	s.t.Helper()
	s.eventually(name+" has "+key, func() error {
		return s.kv(name, func(ctx context.Context, c kvv1.KVServiceClient) error {
			answer, err := c.Range(ctx, &kvv1.RangeRequest{Key: []byte(key)})
			if err != nil {
				return err
			}
			if len(answer.GetKvs()) != 1 || string(answer.GetKvs()[0].GetValue()) != value {
				return errors.New("another value: " + answer.String())
			}
			return nil
		})
	})
}

func (s *statefulSet) wipe(names ...string) {
	s.t.Helper()
	for _, name := range names {
		if err := os.RemoveAll(s.volume(name)); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *statefulSet) recorded() string {
	m, err := s.api.Resource(recordsResource).Namespace(namespace).Get(s.t.Context(), "kv-cluster", metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	named, _, _ := unstructured.NestedString(m.Object, "data", "cluster")
	return named
}

// S20: a majority of the volumes is lost, and the wiped pods start first. There
// is no new cluster until a person decides, on the survivor.
//
// Scenario: S20
func TestLostMajority(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	s.startWhole(all...)
	before := s.status("kv-0").GetClusterId()
	revision, err := s.put("kv-0", "k", "v")
	if err != nil {
		t.Fatal(err)
	}
	s.mustHave("kv-1", "k", "v")
	survivor := s.config("kv-1")
	if _, err := recoverPod(t.Context(), &survivor, nil); err == nil || !strings.Contains(err.Error(), "is the master") {
		t.Errorf("with a quorum it answers %v", err)
	}

	s.stopAll(all...)
	s.wipe("kv-0", "kv-2")
	s.start("kv-0", "kv-2")
	for _, name := range []string{"kv-0", "kv-2"} {
		s.eventually(name+" waits for its cluster", func() error {
			if err := s.ready(name); err == nil || !strings.Contains(err.Error(), before) {
				return errors.Join(err, errors.New("it does not name the cluster"))
			}
			return nil
		})
	}
	s.start("kv-1")
	s.eventually("the survivor has no master", func() error {
		if err := s.ready("kv-1"); err == nil || !strings.Contains(err.Error(), "no master") {
			return errors.Join(err, errors.New("it has one"))
		}
		return nil
	})
	if _, err := s.put("kv-1", "k", "another"); err == nil {
		t.Error("a write without a quorum")
	}

	for because, lost := range map[string][]string{"--lost kv-0,kv-2": nil, "--lost kv-2": {"kv-0"}, "the voters beside this pod are kv-0, kv-2": {"kv-0", "kv-2", "kv-3"}} {
		if _, err := recoverPod(t.Context(), &survivor, lost); err == nil || !strings.Contains(err.Error(), because) || s.recorded() != before {
			t.Errorf("with %v lost: %v, not %q; the record names %s", lost, err, because, s.recorded())
		}
	}
	text, err := recoverPod(t.Context(), &survivor, []string{"kv-0", "kv-2"})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(text)
	s.awaitReady(all...)
	s.awaitVoters("kv-0", all...)
	after := s.status("kv-2").GetClusterId()
	s.eventually("the record names the new cluster", func() error {
		if got := s.recorded(); got != after || got == before {
			return errors.New(got)
		}
		return nil
	})
	for _, name := range all {
		s.mustHave(name, "k", "v")
	}
	if again, err := s.put("kv-0", "k", "w"); err != nil || again <= revision {
		t.Errorf("revision %d after %d, %v", again, revision, err)
	}
	if aside, err := filepath.Glob(filepath.Join(s.volume("kv-1"), "replaced-*", "store.db")); err != nil || len(aside) != 1 {
		t.Errorf("the old data is in %v, %v", aside, err)
	}
}

// Without a process, kvd recover works on the directory itself. What was only
// in the log, because the process was killed, is kept.
func TestRecoverOffline(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 1)
	s.start("kv-0")
	s.awaitReady("kv-0")
	if _, err := s.put("kv-0", "k", "v"); err != nil {
		t.Fatal(err)
	}
	// As a crash leaves it: the process has not flushed.
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(s.volume("kv-0"))); err != nil {
		t.Fatal(err)
	}
	s.stopAll("kv-0")
	s.wipe("kv-0")
	if err := os.Rename(copied, s.volume("kv-0")); err != nil {
		t.Fatal(err)
	}
	c := s.config("kv-0")
	if _, err := recoverPod(t.Context(), &c, nil); err != nil {
		t.Fatal(err)
	}
	s.start("kv-0")
	s.awaitReady("kv-0")
	s.mustHave("kv-0", "k", "v")

	empty := s.config("kv-1")
	if _, err := recoverPod(t.Context(), &empty, nil); !errors.Is(err, replication.ErrRecoveryRefused) {
		t.Errorf("an empty directory: %v", err)
	}
}
