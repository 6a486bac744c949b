package raftio

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/machinetest"
	"github.com/batondb/baton/replication/internal/raftlog"
)

// What may be applied, after messages of masters and entries of its own.
func TestProven(t *testing.T) {
	var p proven
	step := func(what string, do func(), want uint64) {
		t.Helper()
		do()
		if got := p.end(); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	message := func(term, end uint64) func() { return func() { p.message(term, end) } }
	stored := func(term, last uint64) func() {
		return func() { p.stored(&raft.Log{Index: last, Term: term}) }
	}
	step("a start", func() {}, 0)
	step("a master's message", message(3, 60), 60)
	step("an entry of a message", stored(2, 40), 60)
	step("an earlier message", message(3, 50), 60)
	step("it leads", stored(4, 63), 63)
	step("a late message of the master before", message(3, 61), 63)
	step("a newer master", message(5, 61), 61)
	step("it leads again", stored(6, 62), 62)
}

func TestARecoveryTakesAll(t *testing.T) {
	m := machinetest.Open(t, t.TempDir())
	f := &fsm{trail: &Trail{}, sm: m, applied: &AppliedIndex{}, fail: func(err error) { t.Error(err) }}
	f.ApplyBatch([]*raft.Log{machinetest.PutEntry(1, 1, "a"), machinetest.PutEntry(2, 1, "b")})
	if m.Applied() != 2 {
		t.Errorf("applied up to %d", m.Applied())
	}
}

// The pod stops before it applies what was never committed, or not in order.
func TestWhatWasNotProvenIsNotApplied(t *testing.T) {
	for _, tc := range []struct {
		name    string
		entries []*raft.Log
		applied uint64
	}{
		{"in order", []*raft.Log{machinetest.PutEntry(1, 1, "a"), machinetest.PutEntry(2, 1, "b"), machinetest.PutEntry(4, 2, "c")}, 4},
		{"beyond what a master has shown", []*raft.Log{machinetest.PutEntry(4, 2, "a"), machinetest.PutEntry(5, 2, "b")}, 4},
		{"an entry twice", []*raft.Log{machinetest.PutEntry(1, 1, "a"), machinetest.PutEntry(1, 1, "a"), machinetest.PutEntry(2, 1, "b")}, 1},
		{"an earlier term", []*raft.Log{machinetest.PutEntry(1, 2, "a"), machinetest.PutEntry(2, 1, "b")}, 1},
	} {
		var failed error
		m := machinetest.Open(t, t.TempDir())
		f := &fsm{trail: &Trail{}, sm: m, applied: &AppliedIndex{}, fail: func(err error) { failed = err }, proven: &proven{}}
		f.proven.message(2, 4)
		f.ApplyBatch(tc.entries)
		broken := tc.applied != tc.entries[len(tc.entries)-1].Index
		if m.Applied() != tc.applied || errors.Is(failed, raftlog.ErrInvariant) != broken {
			t.Errorf("%s: applied up to %d, want %d; failed with %v", tc.name, m.Applied(), tc.applied, failed)
		}
	}
}
