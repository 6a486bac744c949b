package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/batondb/baton/store/internal/faultfs"
)

// mount serves a recording file system, or says that there is none here.
func mount(t *testing.T) (*faultfs.FS, bool) {
	t.Helper()
	f, err := faultfs.Mount(tempDir(t))
	if err != nil {
		t.Logf("no FUSE on this machine, pages are mixed from copies instead: %v", err)
		return nil, false
	}
	return f, true
}

// TestCrash writes to a store on a file system that records every write and
// sync, makes from the record what the disk may hold after a crash at each of
// them, and opens a store on that.
func TestCrash(t *testing.T) {
	seeds(t, 2, crashRegressions, func(t *testing.T, seed uint64) {
		run := newCrashRun(t, seed)
		f, ok := mount(t)
		if !ok {
			run.mixedPages()
			return
		}
		run.d.options.Dir = f.Dir
		run.write(func() {
			if err := f.Mark(int64(run.d.s.Durable().Index) + 1); err != nil {
				t.Fatal(err)
			}
		})
		ops, err := f.Unmount()
		if err != nil {
			t.Fatal(err)
		}
		run.crashEverywhere(ops)
	})
}

// TestCrashMixedPages is TestCrash for machines without FUSE.
func TestCrashMixedPages(t *testing.T) {
	seeds(t, 2, nil, func(t *testing.T, seed uint64) { newCrashRun(t, seed).mixedPages() })
}

var crashRegressions []uint64

type crashRun struct {
	t *testing.T
	*generator
	h *history
	d *driver
}

func newCrashRun(t *testing.T, seed uint64) *crashRun {
	run := &crashRun{t: t, h: newHistory()}
	run.generator = newGenerator(newRand(seed), run.h.model)
	run.d = &driver{t: t, h: run.h, options: Options{Dir: tempDir(t), TableBytes: 1 << (8 + run.IntN(8))}}
	return run
}

// write does things; durable is called now and then, after a sync.
func (run *crashRun) write(durable func()) {
	run.t.Helper()
	run.d.open()
	durable()
	for range 40 {
		run.h.add(run.entry()...)
		run.d.catchUp(run.h.last())
		switch run.IntN(12) {
		case 0:
			if err := run.d.s.Flush(context.Background(), run.d.s.Applied()); err != nil {
				run.t.Fatal(err)
			}
		case 1:
			run.d.close()
			run.d.open()
		case 2:
			run.d.kill()
			run.d.open()
			run.d.catchUp(run.h.last())
		case 3:
			run.d.waitScrubbed()
		}
		durable()
	}
	run.d.close()
}

// maxCrashes bounds the crash points of one run; -rounds asks for all.
const maxCrashes = 300

// crashEverywhere looks at the disk after each operation of the record.
func (run *crashRun) crashEverywhere(ops []faultfs.Op) {
	run.t.Helper()
	points := run.Perm(len(ops) + 1)
	if *roundsFlag == 0 && len(points) > maxCrashes {
		points = points[:maxCrashes]
	}
	run.t.Logf("%d operations, %d crashes", len(ops), len(points))
	for _, point := range points {
		acknowledged := uint64(0)
		for _, op := range ops[:point] {
			if op.Kind == faultfs.Mark {
				acknowledged = uint64(op.Offset) - 1
			}
		}
		dir := tempDir(run.t)
		if err := faultfs.Crash(ops[:point], run.Rand, dir); err != nil {
			run.t.Fatal(err)
		}
		if err := run.recovers(dir, acknowledged); err != nil {
			run.t.Fatalf("crash after operation %d of %d: %v", point, len(ops), err)
		}
		_ = os.RemoveAll(dir)
	}
}

// recovers opens what a crash has left, compares it with the model at its index,
// replays the log, and compares again.
func (run *crashRun) recovers(dir string, acknowledged uint64) (err error) {
	s, err := Open(Options{Dir: dir, TableBytes: run.d.options.TableBytes})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	applied := s.Applied()
	if applied < acknowledged {
		return fmt.Errorf("entry %d was durable, the disk has %d", acknowledged, applied)
	}
	if revision := run.h.revisionAt(applied); s.Status().Revision != revision {
		return fmt.Errorf("index %d has revision %d, want %d", applied, s.Status().Revision, revision)
	} else if revision >= s.Status().Compacted {
		if err := contentsDiffer(s, run.h.model, revision); err != nil {
			return err
		}
	}
	again := &driver{t: run.t, h: run.h, s: s}
	again.catchUp(run.h.last())
	if err := s.Check(context.Background()); err != nil {
		return err
	}
	for _, revision := range []int64{run.h.model.revision, run.kept()} {
		if err := contentsDiffer(s, run.h.model, revision); err != nil {
			return err
		}
	}
	return nil
}

// mixedPages copies the file while it is written. A copy during which no
// transaction was committed is what a crash may leave: the pages of the last
// one, and some of those of the next one, in any mix of two such copies.
func (run *crashRun) mixedPages() {
	run.t.Helper()
	stop, copies := make(chan struct{}), make(chan []*fileCopy)
	go func() {
		var taken []*fileCopy
		for len(taken) < maxCrashes {
			select {
			case <-stop:
				copies <- taken
				return
			default:
			}
			if c := copyFile(databaseOf(run.d.options.Dir)); c != nil {
				taken = append(taken, c)
			}
		}
		<-stop
		copies <- taken
	}()
	run.write(func() {})
	close(stop)
	taken := <-copies
	run.t.Logf("%d copies", len(taken))
	for i, c := range taken {
		if i > 0 && taken[i-1].transaction == c.transaction {
			c.mix(run.Rand, taken[i-1])
		}
		dir := tempDir(run.t)
		path := databaseOf(dir)
		if err := errors.Join(os.WriteFile(path, c.content, 0o600), os.Truncate(path, c.size)); err != nil {
			run.t.Fatal(err)
		}
		if err := run.recovers(dir, 0); err != nil {
			run.t.Fatalf("copy %d of %d: %v", i, len(taken), err)
		}
		_ = os.RemoveAll(dir)
	}
}

// fileCopy is a copy of a bbolt file.
type fileCopy struct {
	content     []byte // Zeros at the end left out.
	size        int64
	transaction uint64
}

// copyFile returns nil when a transaction was committed meanwhile.
func copyFile(path string) *fileCopy {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		return nil
	}
	before, pages := newestTransaction(file)
	// With room for what the next transaction appends.
	content := make([]byte, min(stat.Size(), int64(pages+256)*int64(pageBytes)))
	if _, err := file.ReadAt(content, 0); err != nil || before == 0 {
		return nil
	}
	if after, _ := newestTransaction(file); after != before {
		return nil
	}
	return &fileCopy{content: content, size: stat.Size(), transaction: before}
}

// newestTransaction reads the number of the last transaction, and that of the
// pages it uses, from the two pages that bbolt writes in turn at a file's start.
func newestTransaction(file io.ReaderAt) (transaction, pages uint64) {
	const pagesAt, transactionAt = 56, 64
	for i := range 2 {
		var page [transactionAt + 8]byte
		if _, err := file.ReadAt(page[:], int64(i*pageBytes)); err != nil {
			return 0, 0
		}
		transaction = max(transaction, binary.LittleEndian.Uint64(page[transactionAt:]))
		pages = max(pages, binary.LittleEndian.Uint64(page[pagesAt:]))
	}
	return transaction, pages
}

func (c *fileCopy) mix(r *rand.Rand, older *fileCopy) {
	page := pageBytes
	for at := 2 * page; at < min(len(c.content), len(older.content)); at += page {
		if r.IntN(2) == 0 {
			copy(c.content[at:at+page], older.content[at:at+page])
		}
	}
}

// TestDiskErrors lets the disk fail while a store is written to: it says so,
// acknowledges nothing any more, and with a healthy disk it recovers.
func TestDiskErrors(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		t.Run(errno.Error(), func(t *testing.T) {
			seeds(t, 3, nil, func(t *testing.T, seed uint64) { diskError(t, seed, errno) })
		})
	}
}

func diskError(t *testing.T, seed uint64, errno syscall.Errno) {
	run := newCrashRun(t, seed)
	if f, ok := mount(t); ok {
		run.d.options.Dir = f.Dir
		defer func() {
			if _, err := f.Unmount(); err != nil {
				t.Error(err)
			}
		}()
		run.d.open()
		run.failing(func() {
			if err := f.Fail(errno, run.IntN(40)); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := f.Fail(0, 0); err != nil {
				t.Fatal(err)
			}
		})
		return
	}
	// A file that is closed under the store stands for the disk that fails.
	run.d.open()
	run.failing(func() {
		if err := run.d.s.database.db.Close(); err != nil {
			t.Fatal(err)
		}
	}, func() {})
}

func (run *crashRun) failing(fail, heal func()) {
	t := run.t
	for range 10 {
		run.h.add(run.entry()...)
		run.d.catchUp(run.h.last())
	}
	fail()
	failed := false
	for i := 0; i < 2000 && !failed; i++ {
		run.h.add(run.entry()...)
		for _, result := range run.d.s.Apply(run.h.last(), 1, run.h.entries[run.h.last()-1].commands) {
			failed = failed || result.GetError().GetReason() == outcomeUnknown
		}
		if i%10 == 0 {
			failed = run.d.s.Flush(context.Background(), run.d.s.Applied()) != nil || failed
		}
	}
	if !failed {
		t.Fatal("writes go on although the disk fails")
	}
	if err := <-run.d.s.Failed(); !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		t.Fatalf("failed with %v", err)
	}
	applied := run.d.s.Applied()
	for range 3 {
		run.h.add(put("a", "b"))
		for _, result := range run.d.s.Apply(run.h.last(), 1, run.h.entries[run.h.last()-1].commands) {
			if result.GetError().GetReason() != outcomeUnknown {
				t.Fatalf("acknowledged after the failure: %v", result)
			}
		}
	}
	if run.d.s.Applied() != applied {
		t.Fatalf("applied %d entries after the failure", run.d.s.Applied()-applied)
	}
	if err := run.d.s.Close(); err == nil {
		t.Fatal("closed as if nothing had happened")
	}
	heal()
	run.d.open()
	run.d.catchUp(run.h.last())
	run.d.compareContents(run.kept())
	run.d.close()
}
