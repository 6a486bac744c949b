package raftlog

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
)

func open(t *testing.T, dir string, limit int64, floor *uint64) *Log {
	t.Helper()
	l, err := Open(Options{
		Dir: dir, Logger: hclog.NewNullLogger(), Limit: limit, HoldLimit: 8 * limit, Hang: time.Minute,
		Failed: func(err error) { t.Error(err) },
		Floor:  func() uint64 { return *floor },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func fill(t *testing.T, l *Log, from, to, term uint64, size int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := l.StoreLog(&raft.Log{Index: i, Term: term, Data: make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
	}
}

func wantBounds(t *testing.T, l *Log, first, last uint64) {
	t.Helper()
	f, e, err := l.bounds()
	if err != nil || f != first || e != last {
		t.Fatalf("the log is %d to %d, want %d to %d, %v", f, e, first, last, err)
	}
}

// The example of the type's comment.
func TestMarks(t *testing.T) {
	var m marks
	for i := uint64(1); i <= 9; i++ {
		m.add(i, 30<<10)
	}
	if len(m.list) != 3 || m.bytes() != 270<<10 || m.keepLast(180<<10) != 4 || m.keepLast(1) != 7 {
		t.Errorf("%+v: %d bytes, keep %d", m, m.bytes(), m.keepLast(180<<10))
	}
	m.cutFront(3)
	if m.bytes() != 180<<10 {
		t.Errorf("%d bytes after a cut in front", m.bytes())
	}
	m.cutBack(7)
	if m.bytes() != 90<<10 {
		t.Errorf("%d bytes after a cut behind", m.bytes())
	}
}

func TestTruncation(t *testing.T) {
	dir := t.TempDir()
	floor := uint64(0)
	l := open(t, dir, 1<<20, &floor)
	fill(t, l, 1, 100, 1, 32<<10)
	select {
	case <-l.Over():
	default:
		t.Error("3 MiB are not over 1 MiB")
	}
	cut := func() {
		t.Helper()
		first, last, _ := l.bounds()
		if err := l.DeleteRange(first, last-1); err != nil {
			t.Fatal(err)
		}
	}
	cut() // nothing is on disk yet
	wantBounds(t, l, 1, 100)
	floor = 50
	l.Hold("a clone", 20, time.Minute)
	cut()
	wantBounds(t, l, 20, 100)
	l.Release("a clone")
	cut() // the entry that the database ends with stays
	wantBounds(t, l, 50, 100)
	floor = 100
	l.Hold("for a moment", 60, time.Nanosecond)
	cut() // half of the limit stays
	first, _, _ := l.bounds()
	if n := l.Bytes(); first < 80 || n > 600<<10 || n < 400<<10 {
		t.Errorf("it begins at %d with %d bytes", first, n)
	}
	l.Close()
	again := open(t, dir, 1<<20, &floor)
	wantBounds(t, again, first, 100)
	if a, b := again.Bytes(), l.Bytes(); a < b-64<<10 || a > b+64<<10 {
		t.Errorf("%d bytes after opening again, %d before", a, b)
	}
	if err := again.DeleteRange(95, 100); err != nil {
		t.Fatal(err)
	}
	wantBounds(t, again, first, 94)
	fill(t, again, 95, 96, 2, 100)
}

// Scenario: S29
func TestHoldLimit(t *testing.T) {
	floor := uint64(1000)
	l := open(t, t.TempDir(), 256<<10, &floor)
	l.Hold("a clone that takes for ever", 0, 0)
	fill(t, l, 1, 100, 1, 32<<10)
	if err := l.DeleteRange(1, 99); err != nil {
		t.Fatal(err)
	}
	if n := l.Bytes(); n > 1<<20 {
		t.Errorf("a hold kept %d bytes, over the limit for holds", n)
	}
}

func TestReconcile(t *testing.T) {
	for _, tc := range []struct {
		name        string
		index, term uint64
		first, last uint64
		fails       bool
	}{
		{"the log goes on", 7, 1, 5, 10, false},
		{"it ends where the database does", 10, 1, 5, 10, false},
		{"a received database is ahead", 20, 1, 0, 0, false},
		{"a received database is of another history", 7, 2, 0, 0, false},
		{"it begins right after", 4, 1, 5, 10, false},
		{"entries are missing", 3, 1, 5, 10, true},
	} {
		floor := uint64(4)
		l := open(t, t.TempDir(), 1<<20, &floor)
		fill(t, l, 5, 10, 1, 10)
		err := l.Reconcile(tc.index, tc.term)
		if (err != nil) != tc.fails {
			t.Errorf("%s: %v", tc.name, err)
		}
		f, e, _ := l.bounds()
		if f != tc.first || e != tc.last {
			t.Errorf("%s: the log is %d to %d", tc.name, f, e)
		}
	}
}

func TestWatch(t *testing.T) {
	told := make(chan error, 2)
	release := make(chan struct{})
	go Watch("a test", time.Millisecond, func(err error) { told <- err }, func() error { <-release; return errors.New("at last") })
	if err := <-told; !errors.Is(err, ErrHung) {
		t.Errorf("told %v", err)
	}
	close(release)
	if err := <-told; !strings.Contains(err.Error(), "at last") {
		t.Errorf("told %v", err)
	}
}

// What Raft rules out is refused, and stops the pod.
func TestInvariants(t *testing.T) {
	for _, tc := range []struct {
		name           string
		first, last    uint64 // of the log before; 0: it is empty
		floor, applied uint64
		do             func(l *Log) error
		broken         bool
	}{
		{"what is not applied is cut from the end", 5, 20, 10, 15, func(l *Log) error { return l.DeleteRange(16, 20) }, false},
		{"what is applied is cut from the end", 5, 20, 10, 15, func(l *Log) error { return l.DeleteRange(15, 20) }, true},
		{"the first entry after a clone is replaced", 11, 20, 10, 10, func(l *Log) error { return l.DeleteRange(11, 20) }, false},
		{"the log is emptied after a snapshot", 5, 20, 30, 30, func(l *Log) error { return l.DeleteRange(5, 20) }, false},
		{"the log is emptied without one", 5, 20, 10, 15, func(l *Log) error { return l.DeleteRange(5, 20) }, true},
		{"the log goes on after the database", 0, 0, 10, 10, func(l *Log) error { return l.StoreLogs(entriesOf(11, 12, 1)) }, false},
		{"the log begins within the database", 0, 0, 10, 10, func(l *Log) error { return l.StoreLogs(entriesOf(8, 12, 1)) }, false},
		{"there is a gap after the database", 0, 0, 10, 10, func(l *Log) error { return l.StoreLogs(entriesOf(12, 12, 1)) }, true},
		{"there is a gap in the log", 5, 20, 10, 15, func(l *Log) error { return l.StoreLogs(entriesOf(22, 22, 1)) }, true},
	} {
		var told error
		floor, applied := uint64(1000), uint64(0)
		l, err := Open(Options{
			Dir: t.TempDir(), Logger: hclog.NewNullLogger(), Limit: 1 << 20, HoldLimit: 1 << 20, Hang: time.Minute,
			Failed: func(err error) { told = err },
			Floor:  func() uint64 { return floor }, Applied: func() uint64 { return applied },
		})
		if err != nil {
			t.Fatal(err)
		}
		if tc.last > 0 {
			fill(t, l, tc.first, tc.last, 1, 10)
		}
		floor, applied = tc.floor, tc.applied
		if err := tc.do(l); (err != nil) != tc.broken || (told != nil) != tc.broken {
			t.Errorf("%s: %v; told %v", tc.name, err, told)
		}
		l.Close()
	}
}

func TestFallingTerms(t *testing.T) {
	dir := t.TempDir()
	l := openAgain(t, dir)
	if err := l.StoreLogs(append(entriesOf(1, 2, 3), entriesOf(3, 3, 2)...)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err := Open(Options{
		Dir: dir, Logger: hclog.NewNullLogger(), Limit: 1 << 20, HoldLimit: 1 << 20, Hang: time.Minute,
		Failed: func(err error) { t.Error(err) }, Floor: func() uint64 { return 0 },
	})
	if !errors.Is(err, replication.ErrDamaged) {
		t.Errorf("opened with %v", err)
	}
}

// Whatever byte of the files of a log flips, what Open says of it is that the log is
// damaged, or it is not seen in the entries.
func TestEveryFlippedByteIsDamage(t *testing.T) {
	dir, floor := t.TempDir(), uint64(0)
	l := open(t, dir, 1<<20, &floor)
	fill(t, l, 1, 4, 3, 20)
	l.Close()
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for at := range 400 {
		raw := bytes.Clone(whole)
		raw[at] ^= 0xff
		if err := os.WriteFile(files[0], raw, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(Options{
			Dir: dir, Logger: hclog.NewNullLogger(), Limit: 1 << 20, HoldLimit: 1 << 20, Hang: time.Minute,
			Failed: func(err error) { t.Error(err) }, Floor: func() uint64 { return 0 },
		})
		if err == nil {
			l.Close()
		} else if damaged++; !errors.Is(err, replication.ErrDamaged) {
			t.Errorf("byte %d: %v", at, err)
		}
	}
	if damaged == 0 {
		t.Error("nothing was seen")
	}
}
