package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// TestCorruption flips bits in every page of a closed store's file. Whatever
// is read then is right, or an error that wraps ErrCorrupt; where bbolt cannot
// know better (see read), Check finds the damage. Nothing panics or faults.
func TestCorruption(t *testing.T) {
	seeds(t, 2, corruptionRegressions, func(t *testing.T, seed uint64) {
		run := newCrashRun(t, seed)
		run.d.options.TableBytes = 1 << 20
		run.write(func() {})
		copied := copyFile(databaseOf(run.d.options.Dir))
		original := bytes.TrimRight(copied.content, "\x00")
		wrong := 0
		for i := range 400 {
			damaged, what := damage(run.Rand, original, i)
			spareSizes(damaged, original)
			if raceDetector && structureOf(damaged) != nil {
				continue
			}
			outcome, err := run.outcomeOf(damaged, copied.size)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if outcome == readWrong {
				wrong++
			}
		}
		t.Logf("%d damaged files, %d read wrong until Check", 400, wrong)
	})
}

var corruptionRegressions = []uint64{
	946948729068, // A flipped bit in a revision: Check took the version for what a flush had left.
	89392174911,  // A scrub removed a damaged version that it should have complained of.
}

// damage flips a bit or overwrites bytes, in one page after the other, every
// other time in its header.
func damage(r *rand.Rand, original []byte, i int) ([]byte, string) {
	page := pageBytes
	pages := (len(original) + page - 1) / page
	damaged := append([]byte(nil), original...)
	at := i % pages * page
	if r.IntN(2) == 0 {
		at += r.IntN(64)
	} else {
		at += r.IntN(page)
	}
	at = min(at, len(original)-1)
	if r.IntN(2) == 0 {
		damaged[at] ^= 1 << r.IntN(8)
		return damaged, fmt.Sprintf("bit flipped at byte %d (page %d, %d)", at, at/page, at%page)
	}
	n := min(1+r.IntN(16), len(damaged)-at)
	for j := range n {
		damaged[at+j] = byte(r.Uint32())
	}
	return damaged, fmt.Sprintf("%d bytes overwritten at %d (page %d, %d)", n, at, at/page, at%page)
}

// spareSizes gives back what is damaged of the numbers of elements and of further
// pages, and of the sizes of keys and values from 16 MiB on. bbolt believes them
// and asks for the memory: nothing that a test can bear, least of all with the
// race detector. TestVerify damages them too; it reads only.
func spareSizes(damaged, original []byte) {
	page := pageBytes
	for at := 0; at+page <= len(damaged); at += page {
		copy(damaged[at+10:at+pageHeader], original[at+10:at+pageHeader])
		count := int(binary.LittleEndian.Uint16(damaged[at+10:]))
		for i := range min(count, page/pageElement-1) {
			element := at + pageHeader + i*pageElement
			for top := element + 3; top < element+pageElement; top += 4 {
				damaged[top] = original[top]
			}
		}
	}
}

// structureOf is what Check finds first.
func structureOf(file []byte) error {
	r := bytes.NewReader(append(bytes.Clone(file), make([]byte, pageBytes)...))
	c := &pageChecker{file: r, size: uint64(pageBytes)}
	transaction, _ := newestTransaction(r)
	root, _, err := c.meta(transaction)
	if err != nil {
		return err
	}
	return c.tree(root, nil, nil)
}

type outcome int

const (
	readRight outcome = iota
	refusedToOpen
	noticed   // A read or Check returned ErrCorrupt before anything wrong was read.
	readWrong // Wrong data was read, and Check noticed.
)

func (run *crashRun) outcomeOf(file []byte, size int64) (outcome, error) {
	dir := tempDir(run.t)
	defer os.RemoveAll(dir)
	path := databaseOf(dir)
	if err := errors.Join(os.WriteFile(path, file, 0o600), os.Truncate(path, size)); err != nil {
		return 0, err
	}
	s, err := Open(Options{Dir: dir})
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			return 0, fmt.Errorf("open: %w", err)
		}
		return refusedToOpen, nil
	}
	defer s.Close()
	// With one of its two first pages lost bbolt goes back to the transaction
	// before, as after a crash.
	for index := s.Applied() + 1; index <= run.h.last(); index++ {
		if e := run.h.entries[index-1]; e.configuration == nil {
			s.Apply(index, 1, e.commands)
		}
	}
	if s.failing.Load() {
		return noticed, errorUnless(<-s.Failed(), ErrCorrupt)
	}
	readErr := run.read(s)
	checkErr := s.Check(context.Background())
	switch {
	case checkErr != nil && !errors.Is(checkErr, ErrCorrupt) && !errors.Is(checkErr, ErrClosed):
		return 0, fmt.Errorf("check: %w", checkErr)
	case readErr == nil && checkErr == nil:
		return readRight, nil
	case readErr == nil || errors.Is(readErr, ErrCorrupt):
		return noticed, nil
	case checkErr == nil:
		return 0, fmt.Errorf("read wrong, and Check finds nothing: %w", readErr)
	}
	return readWrong, nil
}

func errorUnless(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}

// read reads everything in every way. A search that a damaged page leads astray
// finds nothing: bbolt's pages have no checksums, records have. So wrong answers
// are possible until Check has looked at the page.
func (run *crashRun) read(s *Store) error {
	m := run.h.model
	for _, revision := range []int64{m.revision, run.kept()} {
		if err := contentsDiffer(s, m, revision); err != nil {
			return err
		}
		for key, kv := range m.at[revision] {
			resp, err := s.Range(context.Background(), &kvv1.RangeRequest{Key: []byte(key), Revision: revision})
			if err != nil {
				return err
			}
			if len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision != kv.ModRevision || string(resp.Kvs[0].Value) != string(kv.Value) {
				return fmt.Errorf("key %q: %v", key, resp)
			}
		}
	}
	w, err := s.Watch(&kvv1.WatchRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: max(m.compacted, 1)})
	if err != nil {
		return err
	}
	defer w.Close()
	events := m.watched(w.request, max(m.compacted, 1), m.revision)
	for len(events) > 0 {
		resp, err := w.Next(cancelled)
		if err != nil {
			return err
		}
		for _, event := range resp.Events {
			if len(events) == 0 || string(event.Kv.Key) != string(events[0].Kv.Key) || string(event.Kv.Value) != string(events[0].Kv.Value) || event.Type != events[0].Type {
				return fmt.Errorf("event %v", event)
			}
			events = events[1:]
		}
	}
	for id := range m.leases {
		if keys, err := s.LeaseKeys(id, 0); err != nil || len(keys) != len(m.attached(id)) {
			return fmt.Errorf("keys of lease %d: %q, %w", id, keys, err)
		}
	}
	snapshot, err := s.Snapshot()
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, snapshot)
	return errors.Join(err, snapshot.Close())
}
