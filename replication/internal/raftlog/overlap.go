package raftlog

import (
	"math"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// The master's disk may write entries while they are on their way to the
// followers, and they may be committed before it has, once a majority of the
// voters has them on disk without it (Ongaro, "Consensus: Bridging Theory and
// Practice", 2014, 10.2.1). The library counts the master's own copy as soon as
// StoreLogs returns. So that nothing is committed that a majority does not have
// on disk:
//
//   - it is only done where nothing commits without a follower: by a leader
//     that is not alone, for commands, never for a change of the membership;
//   - a follower's answer is held back, see Await, until the master's disk has
//     the entries, or that majority of others has answered. In the first case
//     the copy that was counted early is one; in the second it is not needed;
//   - a new term begins when the disk has them, see Votes: in the next term this
//     pod may follow, and answer for what its log has;
//   - so does the next write, and with it a change of who votes.
//
// (Each of these is a case of TestOverlap, TestMajorityOfOthers, TestNoOverlap and
// TestFailedOverlap; TestPowerCuts of the package above takes the disks away.)
//
// One write at a time is under way: the library takes a damaged write for torn
// only if it is the last one.

// underway is a write that the disk does not have yet.
type underway struct {
	term, first, last uint64
	done              chan struct{}
	err               error // Once done is closed.

	others   []string      // the voters beside this pod
	majority chan struct{} // closed when a majority of the voters has answered
	mu       sync.Mutex    // guards answered
	answered []string
}

// Overlap lets StoreLogs return before the disk has the entries, while this pod
// leads others: the voters beside it, none otherwise. It is called within
// StoreLogs.
func (l *Log) Overlap(others func() []string) { l.others.Store(&others) }

// led are the others if the write of entries may overlap.
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
	u := l.underway.Load()
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

func (u *underway) count(a Answer) {
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
func (l *Log) Settle() error { return l.settle(math.MaxUint64) }

// settle is Settle for the entries up to index.
func (l *Log) settle(index uint64) error {
	u := l.underway.Load()
	if u == nil || u.first > index {
		return nil
	}
	<-u.done
	return u.err
}

// write stores entries, in the background if it may.
func (l *Log) write(entries []*raft.Log) error {
	store := func() error {
		return l.watched("storing log entries", func() error { return l.wal.StoreLogs(entries) })
	}
	others := l.led(entries)
	if len(others) == 0 {
		return store()
	}
	first, last := entries[0], entries[len(entries)-1]
	u := &underway{
		term: last.Term, first: first.Index, last: last.Index, done: make(chan struct{}),
		others: others, majority: make(chan struct{}),
	}
	l.underway.Store(u)
	l.writes <- func() {
		defer close(u.done)
		u.err = store()
	}
	return nil
}

// writeInBackground is one goroutine for all writes, whose stack has grown once.
func (l *Log) writeInBackground() {
	for write := range l.writes {
		write()
	}
}
