package raftlog

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
)

// The master's disk may sync entries while they are on their way to the
// followers, and they may be committed before it has, once a majority of the
// voters has them on disk without it (Ongaro, "Consensus: Bridging Theory and
// Practice", 2014, 10.2.1). The library counts the master's own copy as soon as
// StoreLogs returns. So that nothing is committed that a majority does not have
// on disk:
//
//   - it is only done where nothing commits without a follower: by a leader
//     that is not alone, for commands, never for a change of the membership;
//   - a follower's answer is held back, see Await, until the master's own sync
//     is done, or that majority of others has answered. In the first case the
//     copy that was counted early is one; in the second it is not needed;
//   - a new term begins when the sync is done, see Votes: in the next term this
//     pod may follow, and answer for what its log has;
//   - so does the next write, and with it a change of who votes.
//
// One write at most is not synced: the library takes a damaged write for torn
// only if it is the last one.

// unsynced is a write whose sync is under way.
type unsynced struct {
	term, first, last uint64
	done              chan struct{}
	err               error // Once done is closed.

	others   []string      // the voters beside this pod
	majority chan struct{} // closed when a majority of the voters has answered
	mu       sync.Mutex    // guards answered
	answered []string
}

// Overlap lets StoreLogs return before the sync while this pod leads others:
// the voters beside it, none otherwise. It is called within StoreLogs.
func (l *Log) Overlap(others func() []string) { l.others.Store(&others) }

// led are the others if the sync of entries may overlap.
func (l *Log) led(entries []*raft.Log) []string {
	others := l.others.Load()
	if others == nil {
		return nil
	}
	for _, e := range entries {
		if e.Type != raft.LogCommand {
			return nil
		}
	}
	return (*others)()
}

// Answer is a member's word that its disk has the entries up to an index, as
// the leader of a term sent them.
type Answer struct {
	Member      string
	Term, Index uint64
}

// Await returns when an answer may be counted together with this pod's copy.
func (l *Log) Await(a Answer) error {
	u := l.unsynced.Load()
	if u == nil || u.first > a.Index {
		return nil
	}
	u.count(a)
	select {
	case <-u.done:
		return u.err
	case <-u.majority:
		return nil
	}
}

func (u *unsynced) count(a Answer) {
	// In one term an index has one entry.
	if a.Term != u.term || a.Index < u.last || !slices.Contains(u.others, a.Member) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if slices.Contains(u.answered, a.Member) {
		return
	}
	u.answered = append(u.answered, a.Member)
	if voters := len(u.others) + 1; len(u.answered) == voters/2+1 {
		close(u.majority)
	}
}

// Settle returns when the disk has all that was stored. After an error the log
// stores nothing more.
func (l *Log) Settle() error {
	u := l.unsynced.Load()
	if u == nil {
		return nil
	}
	<-u.done
	return u.err
}

// write stores entries and lets the sync overlap if it may.
func (l *Log) write(entries []*raft.Log) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	others := l.led(entries)
	l.files.defers = len(others) > 0
	err := l.watched("storing log entries", func() error { return l.wal.StoreLogs(entries) })
	file := l.files.deferred
	l.files.defers, l.files.deferred = false, nil
	if err != nil || file == nil {
		return err
	}
	first, last := entries[0], entries[len(entries)-1]
	u := &unsynced{
		term: last.Term, first: first.Index, last: last.Index, done: make(chan struct{}),
		others: others, majority: make(chan struct{}),
	}
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

func (o *overlapFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	file, err := o.VFS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		file.Close()
		return nil, err
	}
	return &overlapFile{WritableFile: file, fs: o, size: info.Size()}, nil
}

// overlapFile is a file of the log. What ends the file is synced at once: the
// library then says in its metadata that the file is whole. So is the first
// write, with which the file itself becomes durable.
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
