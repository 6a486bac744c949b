package raftio

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/internal/turn"
)

// Only after an entry that comes alone does nobody wait for the next, which tells
// for nothing. Messages without entries do not count.
func TestALoneEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Pipeline{turn: turn.New()}
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
