package raftio

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/internal/turn"
	"github.com/batondb/baton/replication"
)

// Only after an entry that comes alone does nobody wait for the next, which tells
// for nothing. Messages without entries do not count.
func TestALoneEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Pipeline{beats: newBeats(replication.Timing{}), turn: turn.New()}
		entries, none := &raft.AppendEntriesRequest{Entries: []*raft.Log{{Index: 1}}}, &raft.AppendEntriesRequest{}
		for i, step := range []struct {
			after time.Duration
			req   *raft.AppendEntriesRequest
			want  bool
		}{
			{0, entries, true},
			{aloneAfter / 2, none, true},
			{aloneAfter / 4, entries, false},
			{aloneAfter / 2, none, false},
			{aloneAfter / 2, entries, true},
			{aloneAfter - 1, entries, false},
		} {
			time.Sleep(step.after)
			p.note(step.req)
			if got := p.lone(); got != step.want {
				t.Errorf("step %d: alone %v, want %v", i, got, step.want)
			}
		}
	})
}

// The library repeats itself; a connection says what is new, and now and then
// that it is there.
func TestWhatAFollowerKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Pipeline{transport: &Transport{timing: replication.Timing{Transport: time.Minute}}, beats: newBeats(replication.Timing{}), turn: turn.New()}
		at := func(term, previous, committed uint64, entries ...*raft.Log) *raft.AppendEntriesRequest {
			return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: previous, LeaderCommitIndex: committed, Entries: entries}
		}
		entry := &raft.Log{Index: 8, Term: 2}
		for i, step := range []struct {
			after    time.Duration
			answered bool // is everything that was sent
			req      *raft.AppendEntriesRequest
			known    bool
		}{
			{0, true, at(2, 7, 7), false},
			{time.Millisecond, false, at(2, 7, 7), false},
			{time.Millisecond, true, at(2, 7, 7), true},
			{time.Millisecond, true, at(2, 7, 7, entry), false},
			{time.Millisecond, false, at(2, 8, 7), false},
			{time.Millisecond, true, at(2, 8, 7), true},
			{time.Millisecond, true, at(2, 8, 8), false},
			{repeatAfter - 1, true, at(2, 8, 8), true},
			{1, true, at(2, 8, 8), false},
			{1, true, at(3, 8, 8), false},
		} {
			time.Sleep(step.after)
			if step.answered {
				p.answered.Store(p.asked)
			}
			if got := p.known(step.req); got != step.known {
				t.Errorf("step %d: known %t", i, got)
			}
			if !step.known {
				p.note(step.req)
				p.asked++
			}
		}
	})
}
