package raftlog

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
)

// gateFS lets a sync pass only while gate is open.
type gateFS struct {
	types.VFS
	gate atomic.Pointer[gate] // Nil: there is none.
}

// gate is closed until it is opened, with the error that its syncs return.
type gate struct {
	opened chan struct{}
	err    error
}

func (g *gateFS) close() { g.gate.Store(&gate{opened: make(chan struct{})}) }

func (g *gateFS) open(err error) {
	gate := g.gate.Load()
	if gate == nil {
		return
	}
	select {
	case <-gate.opened:
	default:
		gate.err = err
		close(gate.opened)
	}
}

type gateFile struct {
	types.WritableFile
	fs *gateFS
}

func (g *gateFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := g.VFS.Create(dir, name, size)
	return &gateFile{f, g}, err
}

func (g *gateFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := g.VFS.OpenWriter(dir, name)
	return &gateFile{f, g}, err
}

func (f *gateFile) Sync() error {
	if gate := f.fs.gate.Load(); gate != nil {
		if <-gate.opened; gate.err != nil {
			return gate.err
		}
	}
	return f.WritableFile.Sync()
}

func twoOthers() []string { return []string{"kv-1", "kv-2"} }

// overlapping is a log of a leader with followers, with one entry that is durable.
func overlapping(t *testing.T, failed func(error)) (*Log, *gateFS) {
	t.Helper()
	disk := &gateFS{VFS: newFS()}
	l, err := Open(Options{
		Dir: t.TempDir(), Logger: hclog.NewNullLogger(), VFS: disk, Limit: 1 << 20, HoldLimit: 8 << 20,
		Hang: time.Minute, Failed: failed, Floor: func() uint64 { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	l.Overlap(twoOthers)
	fill(t, l, 1, 1, 1, 100)
	if err := l.Settle(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { disk.open(nil) })
	return l, disk
}

// waits reports whether f has not returned after a while, and a channel that
// tells when it has.
func waits(f func() error) (bool, chan error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		done <- err
		return false, done
	case <-time.After(30 * time.Millisecond):
		return true, done
	}
}

// While a write is not durable, nothing that relies on it goes on.
func TestOverlap(t *testing.T) {
	l, disk := overlapping(t, func(err error) { t.Error(err) })
	votes, err := OpenVotes(filepath.Join(t.TempDir(), "vote.db"), time.Minute, func(err error) { t.Error(err) }, l.Settle)
	if err != nil {
		t.Fatal(err)
	}
	defer votes.Close()
	for name, relies := range map[string]func(index uint64) error{
		"an answer that confirms it": func(index uint64) error { return l.Await(Answer{"kv-1", 1, index}) },
		"a read of it":               func(index uint64) error { return l.GetLog(index, new(raft.Log)) },
		"the next write":             func(index uint64) error { return l.StoreLogs(entriesOf(index+1, index+1, 1)) },
		"a new term":                 func(uint64) error { return votes.SetUint64([]byte("CurrentTerm"), 2) },
		"a cut":                      func(index uint64) error { return l.DeleteRange(index, index) },
	} {
		_, last, _ := l.bounds()
		last++
		fill(t, l, last, last, 1, 100)
		if err := l.Settle(); err != nil {
			t.Fatal(err)
		}
		disk.close()
		if err := l.StoreLogs(entriesOf(last+1, last+1, 1)); err != nil {
			t.Fatal(err)
		}
		if err := l.Await(Answer{"kv-1", 1, last}); err != nil {
			t.Fatalf("what was durable before: %v", err)
		}
		waiting, done := waits(func() error { return relies(last + 1) })
		if !waiting {
			t.Errorf("%s does not wait", name)
		}
		disk.open(nil)
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A majority of others makes the master's own copy unnecessary, and nothing less.
func TestMajorityOfOthers(t *testing.T) {
	for _, tc := range []struct {
		name    string
		others  []string
		answers []Answer // to a write of the entries 2 and 3 in term 1
		enough  bool
	}{
		{"both of two", twoOthers(), []Answer{{"kv-1", 1, 3}, {"kv-2", 1, 3}}, true},
		{"both, one of them further", twoOthers(), []Answer{{"kv-1", 1, 9}, {"kv-2", 1, 3}}, true},
		{"one of two", twoOthers(), []Answer{{"kv-1", 1, 3}}, false},
		{"one of two, twice", twoOthers(), []Answer{{"kv-1", 1, 3}, {"kv-1", 1, 3}}, false},
		{"one who does not vote", twoOthers(), []Answer{{"kv-1", 1, 3}, {"kv-3", 1, 3}}, false},
		{"one of an earlier term", twoOthers(), []Answer{{"kv-1", 1, 3}, {"kv-2", 0, 3}}, false},
		{"one of a later term", twoOthers(), []Answer{{"kv-1", 1, 3}, {"kv-2", 2, 3}}, false},
		{"one with a part of it", twoOthers(), []Answer{{"kv-1", 1, 3}, {"kv-2", 1, 2}}, false},
		{"the only other", []string{"kv-1"}, []Answer{{"kv-1", 1, 3}}, false},
		{"two of four", []string{"a", "b", "c", "d"}, []Answer{{"a", 1, 3}, {"b", 1, 3}}, false},
		{"three of four", []string{"a", "b", "c", "d"}, []Answer{{"a", 1, 3}, {"b", 1, 3}, {"c", 1, 3}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, disk := overlapping(t, func(err error) { t.Error(err) })
			l.Overlap(func() []string { return tc.others })
			disk.close()
			if err := l.StoreLogs(entriesOf(2, 3, 1)); err != nil {
				t.Fatal(err)
			}
			for _, a := range tc.answers[:len(tc.answers)-1] {
				l.underway.Load().count(a)
			}
			waiting, done := waits(func() error { return l.Await(tc.answers[len(tc.answers)-1]) })
			if waiting == tc.enough {
				t.Errorf("it waits: %t", waiting)
			}
			if next, _ := waits(l.Settle); !next {
				t.Error("the next write would not wait")
			}
			disk.open(nil)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// What must be durable when StoreLogs returns.
func TestNoOverlap(t *testing.T) {
	l, disk := overlapping(t, func(err error) { t.Error(err) })
	next := func() uint64 { _, last, _ := l.bounds(); return last + 1 }
	store := func(what string, entries []*raft.Log) {
		t.Helper()
		disk.close()
		waiting, done := waits(func() error { return l.StoreLogs(entries) })
		if !waiting {
			t.Errorf("%s: stored before it is durable", what)
		}
		disk.open(nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	membership := entriesOf(next(), next()+1, 1)
	membership[1].Type = raft.LogConfiguration
	store("a change of the membership", membership)

	l.Overlap(func() []string { return nil })
	store("not a leader with followers", entriesOf(next(), next(), 1))
}

// Over the ends of several files.
func TestOverlapRotates(t *testing.T) {
	l, _ := overlapping(t, func(err error) { t.Error(err) })
	const last = 400
	for n := uint64(2); n <= last; n++ {
		fill(t, l, n, n, 1, 3<<10)
	}
	if files, err := filepath.Glob(filepath.Join(l.opts.Dir, "*.wal")); err != nil || len(files) < 4 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for n := uint64(1); n <= last; n++ {
		var e raft.Log
		if err := l.GetLog(n, &e); err != nil || e.Index != n {
			t.Fatalf("entry %d: %d, %v", n, e.Index, err)
		}
	}
}

func TestFailedOverlap(t *testing.T) {
	var failed atomic.Pointer[error]
	l, disk := overlapping(t, func(err error) { failed.Store(&err) })
	disk.close()
	if err := l.StoreLogs(entriesOf(2, 2, 1)); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("input/output error")
	disk.open(broken)
	for name, err := range map[string]error{
		"the answer":     l.Await(Answer{"kv-1", 1, 2}),
		"the next write": l.StoreLogs(entriesOf(3, 3, 1)),
	} {
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := failed.Load(); err == nil || !errors.Is(*err, broken) {
		t.Errorf("nobody was told: %v", err)
	}
}
