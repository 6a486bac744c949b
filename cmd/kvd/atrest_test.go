package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// startVerifying starts pods whose rounds follow each other at once.
func (s *statefulSet) startVerifying(names ...string) {
	s.t.Helper()
	for _, name := range names {
		c := s.config(name)
		c.verifyRate, c.world.verifyInterval = 1<<30, 50*time.Millisecond
		s.startWith(c)
	}
}

// compact makes what was written so far the oldest revision, in the files, too.
func (s *statefulSet) compact(name string) {
	s.t.Helper()
	revision, err := s.put(name, "last", "v")
	if err != nil {
		s.t.Fatal(err)
	}
	err = s.call(name, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := kvv1.NewMaintenanceServiceClient(conn).Compact(ctx, &kvv1.CompactRequest{Revision: revision})
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// edit changes the last byte of a value in a pod's file, while the pod runs, together
// with the record's checksum.
func (s *statefulSet) edit(name, value string) {
	s.t.Helper()
	var key, record []byte
	s.eventually("the value is in the file of "+name, func() (err error) {
		key, record, err = recordOf(s.database(name), value)
		return err
	})
	file, err := os.OpenFile(s.database(name), os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // What counts was written.
	content, err := os.ReadFile(s.database(name))
	if err != nil {
		s.t.Fatal(err)
	}
	edited := bytes.Clone(record)
	edited[len(edited)-1] ^= 1
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	binary.LittleEndian.PutUint32(edited, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, edited[4:]))
	places := 0
	for at := 0; ; places++ {
		next := bytes.Index(content[at:], record)
		if next < 0 {
			break
		}
		if _, err := file.WriteAt(edited, int64(at+next)); err != nil {
			s.t.Fatal(err)
		}
		at += next + len(record)
	}
	if places == 0 {
		s.t.Fatalf("the record of %q is nowhere in the file of %s", value, name)
	}
}

// recordOf finds the log record of a value in a copy of a file.
func recordOf(path, value string) (key, record []byte, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	copied, err := os.CreateTemp(filepath.Dir(path), "copy-")
	if err != nil {
		return nil, nil, err
	}
	defer os.Remove(copied.Name()) //nolint:errcheck // It is in the test's directory.
	_, err = copied.Write(content)
	if err := errors.Join(err, copied.Close()); err != nil {
		return nil, nil, err
	}
	db, err := bbolt.Open(copied.Name(), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return nil, nil, err
	}
	defer db.Close() //nolint:errcheck // It was only read.
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("log")).ForEach(func(k, v []byte) error {
			if bytes.HasSuffix(v, []byte(value)) {
				key, record = bytes.Clone(k), bytes.Clone(v)
			}
			return nil
		})
	})
	if err == nil && record == nil {
		err = fmt.Errorf("no log record has the value %q", value)
	}
	return key, record, err
}

// A value at rest is edited together with its checksum, in a follower, in the master, and
// then in two pods at once, each another one. A round finds it, the pod clones, and what
// was acknowledged is there, also what is written meanwhile.
//
// Scenario: S21
func TestValueEditedWithItsChecksum(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	s.startVerifying(all...)
	s.awaitReady(all...)
	s.awaitVoters("kv-0", all...)
	values := map[string]string{}
	for i := range 50 {
		key, value := fmt.Sprintf("key %d", i), fmt.Sprintf("the value number %d.", i)
		if _, err := s.put("kv-0", key, value); err != nil {
			t.Fatal(err)
		}
		values[key] = value
	}
	s.compact("kv-0")
	master := s.masterOf("kv-0")
	follower := "kv-1"
	if master == follower {
		follower = "kv-2"
	}
	written, stop := s.writeAlways(all...)
	for _, wrong := range [][]string{{follower}, {master}, all[1:]} {
		t.Logf("edited in %v; the master is %s", wrong, s.masterOf("kv-0"))
		for i, name := range wrong {
			s.edit(name, values[fmt.Sprintf("key %d", 7+i)])
		}
		s.restartRetired(wrong...)
		s.awaitReady(all...)
		s.awaitVoters("kv-0", all...)
		for _, name := range all {
			for key, value := range values {
				s.mustHave(name, key, value)
			}
		}
	}
	stop()
	t.Logf("%d writes meanwhile", written.Load())
	for i := range written.Load() {
		s.mustHave(all[i%3], fmt.Sprintf("written %d", i), "v")
	}
}

// writeAlways writes keys "written 0" and so on until stop is called; each of them was
// acknowledged.
func (s *statefulSet) writeAlways(names ...string) (written *atomic.Int64, stop func()) {
	written = &atomic.Int64{}
	ctx, cancel := context.WithCancel(s.t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := s.put(names[i%len(names)], fmt.Sprintf("written %d", written.Load()), "v"); err == nil {
				written.Add(1)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	return written, func() { cancel(); writer.Wait() }
}

// restartRetired waits until each of the pods has given up its data, and starts it again.
func (s *statefulSet) restartRetired(names ...string) {
	s.t.Helper()
	left, since := append([]string(nil), names...), time.Now()
	s.eventually(fmt.Sprintf("%v give up their data", names), func() error {
		for i, name := range left {
			select {
			case err := <-s.pods[name].ended:
				if !errors.Is(err, replication.ErrRetired) {
					s.t.Fatalf("%s ended with: %v", name, err)
				}
				s.t.Logf("%s has given up its data after %s", name, time.Since(since).Round(time.Millisecond))
				s.startVerifying(name)
				left = append(left[:i:i], left[i+1:]...)
				return errors.New("one of them has")
			default:
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%v have not; the first: %w", left, s.ready(left[0]))
		}
		return nil
	})
}
