package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

func (s *statefulSet) database(name string) string {
	return filepath.Join(s.volume(name), store.FileName)
}

func (s *statefulSet) open(name string) *store.Store {
	s.t.Helper()
	st, err := store.Open(store.Options{Dir: s.volume(name)})
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// last is the last entry that a pod that is down has applied.
func (s *statefulSet) last(name string) replication.Position {
	s.t.Helper()
	st := s.open(name)
	last := st.Durable()
	if err := st.Close(); err != nil {
		s.t.Fatal(err)
	}
	return last
}

// phantom puts, into the database of a pod that is down, a value that nobody wrote
// in the place of an entry. Before is a copy of the database from before it.
func (s *statefulSet) phantom(name string, before []byte, at replication.Position) {
	s.t.Helper()
	if err := os.WriteFile(s.database(name), before, 0o600); err != nil {
		s.t.Fatal(err)
	}
	st := s.open(name)
	put := &kvv1.PutRequest{Key: []byte("phantom"), Value: []byte("v")}
	st.Apply(at.Index, at.Term, []*kvv1.Command{{Command: &kvv1.Command_Put{Put: put}}})
	if err := st.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// restarted makes a cluster of three pods run, and returns their databases of
// before, for phantom.
func (s *statefulSet) restarted(all ...string) map[string][]byte {
	s.t.Helper()
	s.startWhole(all...)
	s.stopAll(all...)
	before := map[string][]byte{}
	for _, name := range all {
		raw, err := os.ReadFile(s.database(name))
		if err != nil {
			s.t.Fatal(err)
		}
		before[name] = raw
	}
	s.start(all...)
	s.awaitReady(all...)
	return before
}

func (s *statefulSet) mustPut(name, key string) {
	s.t.Helper()
	if _, err := s.put(name, key, "v"); err != nil {
		s.t.Fatal(err)
	}
}

// awaitRetired waits until a pod has given up its data.
func (s *statefulSet) awaitRetired(name string) {
	s.t.Helper()
	for since := time.Now(); time.Since(since) < patience; {
		select {
		case err := <-s.pods[name].ended:
			if !errors.Is(err, replication.ErrRetired) {
				s.t.Fatalf("%s ended with: %v", name, err)
			}
			delete(s.pods, name)
			s.t.Logf("%s has given up its data after %s", name, time.Since(since).Round(time.Millisecond))
			return
		case <-time.After(time.Millisecond):
		}
	}
	s.t.Fatalf("%s does not give up its data: %v", name, s.ready(name))
}

func (s *statefulSet) has(name, key string) (found bool, err error) {
	err = s.kv(name, func(ctx context.Context, c kvv1.KVServiceClient) error {
		answer, err := c.Range(ctx, &kvv1.RangeRequest{Key: []byte(key)})
		found = len(answer.GetKvs()) > 0
		return err
	})
	return found, err
}

// The database of one pod differs: it has a value that nobody wrote, in the place
// of one that was acknowledged. No read shows it, the pod gives up its data within
// seconds, and clones; the others go on.
//
// Scenario: S21
func TestADatabaseThatDiffers(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	before := s.restarted(all...)
	s.mustPut("kv-0", "a")
	s.stopAll("kv-2")
	s.mustPut("kv-0", "b")
	s.phantom("kv-2", before["kv-2"], s.last("kv-2"))

	s.start("kv-2")
	reading, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	readers.Go(func() {
		for reading.Err() == nil {
			if _, err := s.has("kv-2", "a"); err == nil {
				t.Error("a pod that differs has answered a read")
				return
			}
		}
	})
	s.awaitRetired("kv-2")
	stop()
	readers.Wait()
	for _, name := range all[:2] {
		s.mustHave(name, "a", "v")
	}
	s.start("kv-2")
	s.awaitReady(all...)
	s.mustHave("kv-2", "a", "v")
	if found, err := s.has("kv-2", "phantom"); found || err != nil {
		t.Errorf("the phantom: %v, %v", found, err)
	}
}

// It is the master that differs from the majority. With one other pod nobody can
// tell who is wrong: the master alone serves. With two it gives up its data.
//
// Scenario: S21
func TestAMasterWhoseDatabaseDiffers(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	before := s.restarted(all...)
	s.mustPut("kv-0", "a")
	s.stopAll("kv-1")
	s.mustPut("kv-0", "b") // So kv-1 cannot be the master of the two.
	s.stopAll("kv-0", "kv-2")
	at := s.last("kv-1")
	for _, name := range all[1:] {
		s.phantom(name, before[name], at)
	}

	s.start("kv-0", "kv-1")
	s.awaitReady("kv-0")
	s.mustHave("kv-0", "b", "v")
	s.eventually("the other is in doubt", func() error {
		if err := s.ready("kv-1"); err == nil || !strings.Contains(err.Error(), replication.ErrDiffers.Error()) {
			return errors.Join(err, errors.New("it is not"))
		}
		return nil
	})
	if _, err := s.has("kv-1", "b"); err == nil {
		t.Error("the other has answered a read")
	}
	s.mustHave("kv-0", "b", "v")

	s.start("kv-2")
	s.awaitRetired("kv-0")
	for _, name := range all[1:] {
		s.mustHave(name, "phantom", "v")
	}
	s.start("kv-0")
	s.awaitReady(all...)
	s.mustHave("kv-0", "phantom", "v")
}
