package raftlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/batondb/baton/internal/turn"
	"github.com/batondb/baton/replication"
)

const (
	// entryOverhead is what an entry takes beside its data.
	entryOverhead = 48
	// segmentBytes is a file of the log. Space comes back in whole files, so
	// it is a part of the limit; smaller ones are rotated too often.
	segmentBytes = 16 << 20
	// minSegment keeps a test's small limit from making a file for each entry.
	minSegment = 256 << 10
)

// ErrHung is reported when the disk takes longer than Options.Hang.
var ErrHung = errors.New("the disk of the log hangs")

// ErrInvariant is reported when something happens that Raft rules out: a fault of
// this program, or of the library.
var ErrInvariant = errors.New("an invariant of the log is broken; keep the data directory, and report it")

// Options of a log.
type Options struct {
	Dir    string
	Logger hclog.Logger
	// VFS is the file system; nil: the operating system's.
	VFS types.VFS
	// Limit is the size in bytes over which Over tells; half of it is kept
	// for followers that are behind.
	Limit int64
	// HoldLimit is the size over which a hold is not honoured.
	HoldLimit int64
	// Hang is how long one operation may take.
	Hang time.Duration
	// Failed is told once the disk failed or hangs. It must not block.
	Failed func(error)
	// Floor is the index of the database on disk: what is above, and the
	// entry itself, is never cut from the front. The library counts entries
	// that the database never sees (its no-ops), and would cut too much.
	Floor func() uint64
	// Applied is the index up to which entries were applied, and so are committed:
	// they are never cut from the end. nil: none were.
	Applied func() uint64
	// Intact returns an error when an entry is not what was written; Open asks of each.
	// nil: that is not looked at.
	Intact func(*raft.Log) error
}

// Log is a raft.LogStore.
type Log struct {
	opts Options
	wal  *wal.WAL
	meta *metadb.BoltMetaDB
	over chan struct{}

	others   atomic.Pointer[func() []string] // see Overlap
	underway atomic.Pointer[underway]
	writes   chan func()
	changing turn.Lock // Held by whoever changes the log.
	closing  sync.Once

	mu    sync.Mutex // guards the fields below
	marks marks
	holds map[string]hold
	tries int64 // bytes at the last truncation; another is due when more came
}

type hold struct {
	from  uint64
	until time.Time // zero: until it is released
}

// Open opens the log in o.Dir.
func Open(o Options) (*Log, error) {
	if o.VFS == nil {
		o.VFS = newFS()
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	// The log does not close its metadata; whoever opens the directory again
	// in this process would wait for the file's lock for ever.
	meta := &metadb.BoltMetaDB{}
	if err := finishRotation(o.Dir, meta, o.VFS); err != nil {
		meta.Close()
		return nil, openError(err)
	}
	w, err := wal.Open(o.Dir,
		wal.WithMetaStore(meta),
		wal.WithSegmentFiler(segment.NewFiler(o.Dir, o.VFS)),
		wal.WithSegmentSize(int(max(min(o.Limit/4, segmentBytes), minSegment))),
		wal.WithLogger(o.Logger))
	if err != nil {
		meta.Close()
		return nil, openError(err)
	}
	l := &Log{opts: o, wal: w, meta: meta, over: make(chan struct{}, 1), changing: turn.New(), writes: make(chan func()), holds: map[string]hold{}}
	go l.writeInBackground()
	if l.opts.Applied == nil {
		l.opts.Applied = func() uint64 { return 0 }
	}
	if err := l.measure(); err != nil {
		l.Close()
		return nil, fmt.Errorf("read the log: %w", err)
	}
	return l, nil
}

func openError(err error) error {
	return fmt.Errorf("open the log: %w", orDamaged(err))
}

func (l *Log) measure() error {
	first, last, err := l.bounds()
	if err != nil || last == 0 {
		return err
	}
	var term uint64
	for i := first; i <= last; i++ {
		var e raft.Log
		if err := l.read(i, &e); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if e.Index != i || e.Term < term {
			return fmt.Errorf("%w: entry %d calls itself %d of term %d, after one of term %d", replication.ErrDamaged, i, e.Index, e.Term, term)
		}
		term = e.Term
		l.marks.add(i, len(e.Data)+entryOverhead)
	}
	return nil
}

// read reads an entry of which nothing is known, and tells damage from a disk that
// does not answer. The library panics over some lengths.
func (l *Log) read(index uint64, e *raft.Log) (err error) {
	defer func() {
		if why := recover(); why != nil {
			err = fmt.Errorf("%w: %v", replication.ErrDamaged, why)
		}
	}()
	if err := l.wal.GetLog(index, e); err != nil {
		for _, damage := range []error{types.ErrCorrupt, types.ErrNotFound, io.ErrShortBuffer, io.EOF, io.ErrUnexpectedEOF} {
			if errors.Is(err, damage) {
				return errors.Join(replication.ErrDamaged, err)
			}
		}
		if strings.HasPrefix(err.Error(), "Time.UnmarshalBinary") { // The last field of an entry.
			return errors.Join(replication.ErrDamaged, err)
		}
		return err
	}
	if l.opts.Intact == nil {
		return nil
	}
	if err := l.opts.Intact(e); err != nil {
		return errors.Join(replication.ErrDamaged, err)
	}
	return nil
}

func (l *Log) bounds() (first, last uint64, err error) {
	if first, err = l.wal.FirstIndex(); err != nil {
		return 0, 0, err
	}
	last, err = l.LastIndex()
	return first, last, err
}

// Close closes the files. No operation may be running.
func (l *Log) Close() error {
	_ = l.Settle() // Failed was told.
	l.closing.Do(func() { close(l.writes) })
	return errors.Join(l.wal.Close(), l.meta.Close())
}

// IsMonotonic tells the library that the log cannot have gaps.
func (l *Log) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (l *Log) FirstIndex() (uint64, error) { return l.wal.FirstIndex() }

// LastIndex implements raft.LogStore.
func (l *Log) LastIndex() (uint64, error) {
	if err := l.Settle(); err != nil {
		return 0, err
	}
	return l.wal.LastIndex()
}

// GetLog implements raft.LogStore.
func (l *Log) GetLog(index uint64, e *raft.Log) error {
	if err := l.settle(index); err != nil {
		return err
	}
	return l.wal.GetLog(index, e)
}

// StoreLog implements raft.LogStore.
func (l *Log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore. What it has stored is durable when it
// returns, or, see Overlap, when Settle does.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	if err := l.Settle(); err != nil {
		return err
	}
	if err := l.follows(entries[0].Index); err != nil {
		return err
	}
	if err := l.write(entries); err != nil {
		return err
	}
	l.mu.Lock()
	for _, e := range entries {
		l.marks.add(e.Index, len(e.Data)+entryOverhead)
	}
	due := l.marks.bytes() > max(l.opts.Limit, l.tries+l.opts.Limit/8)
	l.mu.Unlock()
	if due {
		select {
		case l.over <- struct{}{}:
		default:
		}
	}
	return nil
}

// follows checks that a log that begins, after a clone or a snapshot, leaves no
// gap after the database. Other gaps the files of the log refuse themselves.
func (l *Log) follows(index uint64) error {
	l.mu.Lock()
	empty := len(l.marks.list) == 0
	l.mu.Unlock()
	if !empty {
		return nil
	}
	if floor := l.opts.Floor(); index > floor && index-1 > floor {
		return l.broken("the log is to begin at %d, the database ends at %d", index, floor)
	}
	return nil
}

// keepsApplied checks that what is cut from the end of the log, or with all of
// it, was not applied, or is in the database on disk. (Raft paper, 5.3: a
// follower removes only what conflicts with a master's log, which has all that
// was committed, 5.4.)
func (l *Log) keepsApplied(first, lo, hi uint64) error {
	applied, floor := l.opts.Applied(), l.opts.Floor()
	if lo > applied || lo <= first && floor >= applied {
		return nil
	}
	return l.broken("the entries from %d to %d are to be cut from the log that begins at %d; up to %d they were applied, the database on disk ends at %d",
		lo, hi, first, applied, floor)
}

func (l *Log) broken(format string, args ...any) error {
	err := fmt.Errorf("%w: %s", ErrInvariant, fmt.Sprintf(format, args...))
	l.opts.Failed(err)
	return err
}

// DeleteRange implements raft.LogStore: from the front at most what nobody
// needs; from the end, or the whole (after a snapshot was installed), all that
// is asked for. The library leaves at least one entry when it truncates.
func (l *Log) DeleteRange(lo, hi uint64) error {
	first, last, err := l.bounds()
	if err != nil {
		return err
	}
	if lo <= first && hi < last {
		if hi = min(hi, l.truncatable()); hi < lo {
			return nil
		}
	} else if err := l.keepsApplied(first, lo, hi); err != nil {
		return err
	}
	if err := l.watched("truncating the log", func() error { return l.wal.DeleteRange(lo, hi) }); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case lo <= first && hi >= last:
		l.marks.reset()
	case lo <= first:
		l.marks.cutFront(hi)
	default:
		l.marks.cutBack(lo)
	}
	l.tries = min(l.tries, l.marks.bytes())
	return nil
}

// truncatable is the last index that may be cut from the front.
func (l *Log) truncatable() uint64 {
	floor := l.opts.Floor()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tries = l.marks.bytes()
	keep := min(floor, l.marks.keepLast(l.opts.Limit/2))
	now := time.Now()
	for name, h := range l.holds {
		if !h.until.IsZero() && now.After(h.until) {
			delete(l.holds, name)
		} else if l.marks.bytes() <= l.opts.HoldLimit {
			keep = min(keep, h.from)
		}
	}
	return max(keep, 1) - 1
}

// Hold keeps the log from an index on for a holder; 0: from what there is now.
// A hold ends at Release, or after d unless that is 0; a second one by the
// same holder only prolongs the first.
func (l *Log) Hold(holder string, from uint64, d time.Duration) {
	if from == 0 {
		from, _ = l.wal.FirstIndex()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.holds[holder]
	if !ok {
		h.from = from
	}
	h.until = time.Time{}
	if d > 0 {
		h.until = time.Now().Add(d)
	}
	l.holds[holder] = h
}

// Release ends a hold.
func (l *Log) Release(holder string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.holds, holder)
}

// Bytes is the size of the log.
func (l *Log) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.marks.bytes()
}

// IsOver says whether the log is over its limit.
func (l *Log) IsOver() bool { return l.Bytes() > l.opts.Limit }

// Over receives when the log is over its limit and a truncation is due.
func (l *Log) Over() <-chan struct{} { return l.over }

// Reconcile makes the log continue the database: a database that was received
// is ahead of the log, or of another history than its unconfirmed end.
func (l *Log) Reconcile(index, term uint64) error {
	first, last, err := l.bounds()
	if err != nil || last == 0 {
		return err
	}
	if first > index+1 {
		return fmt.Errorf("%w: it begins at %d, the database ends at %d", replication.ErrDamaged, first, index)
	}
	stale := last < index
	if !stale && first <= index {
		var e raft.Log
		if err := l.wal.GetLog(index, &e); err != nil {
			return err
		}
		stale = e.Term != term
	}
	if !stale {
		return nil
	}
	l.marks.reset()
	return l.wal.DeleteRange(first, last)
}

// watched runs a change of the log, one at a time.
func (l *Log) watched(what string, op func() error) error {
	return Watch(what, l.opts.Hang, l.opts.Failed, func() error {
		l.changing.Lock()
		defer l.changing.Unlock()
		return op()
	})
}

// Watch runs a disk operation: its error, and that it takes longer than limit,
// are told to failed.
func Watch(what string, limit time.Duration, failed func(error), op func() error) error {
	alarm := time.AfterFunc(limit, func() {
		failed(fmt.Errorf("%w: %s takes over %s", ErrHung, what, limit))
	})
	err := op()
	alarm.Stop()
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
		failed(err)
	}
	return err
}
