package raftlog

import (
	"math"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
)

// The master's disk may sync entries while they are on their way to the
// followers (Ongaro, "Consensus: Bridging Theory and Practice", 2014, 10.2.1).
// The library counts the master's own copy as soon as StoreLogs returns. So
// that nothing is committed that a majority does not have on disk:
//
//   - it is only done where nothing commits without a follower: by a leader
//     that is not alone, for commands, never for a change of the membership;
//   - a follower's answer is held back until the master's own sync is done, see
//     AwaitSync: then the copy that was counted early is one;
//   - a new term begins when the sync is done, see Votes: in the next term this
//     pod may follow, and answer for what its log has.
//
// One write at most is not synced: the library takes a damaged write for torn
// only if it is the last one.

// unsynced is a write whose sync is under way.
type unsynced struct {
	first uint64
	done  chan struct{}
	err   error // Once done is closed.
}

// Overlap lets StoreLogs return before the sync while may returns true. It is
// called within StoreLogs.
func (l *Log) Overlap(may func() bool) { l.overlap.Store(&may) }

func (l *Log) mayOverlap(entries []*raft.Log) bool {
	may := l.overlap.Load()
	if may == nil || !(*may)() {
		return false
	}
	for _, e := range entries {
		if e.Type != raft.LogCommand {
			return false
		}
	}
	return true
}

// AwaitSync returns when the disk has all entries up to index that were stored.
func (l *Log) AwaitSync(index uint64) error {
	if u := l.unsynced.Load(); u != nil && u.first <= index {
		<-u.done
		return u.err
	}
	return nil
}

// Settle returns when the disk has all that was stored. After an error the log
// stores nothing more.
func (l *Log) Settle() error { return l.AwaitSync(math.MaxUint64) }

// write stores entries and lets the sync overlap if it may.
func (l *Log) write(entries []*raft.Log) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	l.files.defers = l.mayOverlap(entries)
	err := l.watched("storing log entries", func() error { return l.wal.StoreLogs(entries) })
	file := l.files.deferred
	l.files.defers, l.files.deferred = false, nil
	if err != nil || file == nil {
		return err
	}
	u := &unsynced{first: entries[0].Index, done: make(chan struct{})}
	l.unsynced.Store(u)
	go func() {
		defer close(u.done)
		u.err = l.watched("syncing log entries", file.WritableFile.Sync)
	}()
	return nil
}

// overlapFS gives files whose Sync can be put off. Its fields are guarded by
// Log.changing.
type overlapFS struct {
	types.VFS
	defers   bool
	deferred *overlapFile // Whose Sync is owed.
}

func (o *overlapFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	file, err := o.VFS.Create(dir, name, size)
	if err != nil {
		return nil, err
	}
	return &overlapFile{WritableFile: file, fs: o, size: int64(size)}, nil
}

// overlapFile is a file of the log. What ends the file is synced at once: the
// library then says in its metadata that the file is whole. So is the first
// write, with which the file itself becomes durable. A file from before the
// start has another type, and all its syncs are done at once.
type overlapFile struct {
	types.WritableFile
	fs     *overlapFS
	size   int64 // At which it is full.
	end    int64
	synced atomic.Bool
}

// endBytes is more than what may follow the last entry in a file beside its
// index, which is in the write that ends the file.
const endBytes = 4 << 10

func (f *overlapFile) WriteAt(p []byte, at int64) (int, error) {
	f.end = at + int64(len(p))
	return f.WritableFile.WriteAt(p, at)
}

func (f *overlapFile) Sync() error {
	if f.fs.defers && f.synced.Load() && f.end+endBytes < f.size {
		f.fs.deferred = f
		return nil
	}
	if err := f.WritableFile.Sync(); err != nil {
		return err
	}
	f.synced.Store(true)
	return nil
}
