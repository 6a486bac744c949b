package raftio

import (
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/raftlog"
)

// durable is a state machine of which only this is asked.
type durable struct {
	replication.StateMachine
	at replication.Position
}

func (d durable) Durable() replication.Position { return d.at }

// A pod with a database up to entry 20, of term 3, and a log of some entries.
func TestRebase(t *testing.T) {
	entries := func(from, to, term uint64) (all []*raft.Log) {
		for i := from; i <= to; i++ {
			all = append(all, &raft.Log{Index: i, Term: term})
		}
		return all
	}
	for _, tc := range []struct {
		name        string
		first, last uint64 // of the log; 0: it is empty
		prev, to    uint64 // of the message
		term        uint64 // of its entries, and of the one before
		want        uint64 // the entry before it, then; 0: it matches
		wantFirst   uint64 // of its entries; 0: none
	}{
		{"right after a clone", 0, 0, 20, 22, 3, 0, 21},
		{"the first entry after a clone conflicts", 21, 22, 20, 22, 3, 0, 21},
		{"it begins below the log", 15, 30, 13, 25, 3, 0, 21},
		{"it ends below the log", 21, 30, 13, 18, 3, 0, 0},
		{"it ends with what is applied", 21, 30, 13, 20, 3, 0, 0},
		{"from the very first", 21, 30, 0, 25, 3, 0, 21},
		{"only what is committed", 21, 30, 20, 20, 3, 0, 0},
		{"in the log", 15, 30, 18, 25, 3, 18, 19},
		{"its first entry is the log's", 15, 30, 15, 25, 3, 15, 16},
		{"above what is applied", 15, 30, 25, 26, 3, 25, 26},
		{"above, and there is no log", 0, 0, 25, 26, 3, 25, 26},
		{"the database has another entry", 0, 0, 18, 22, 2, 20, 0},
		{"the database has another last entry", 21, 22, 20, 22, 2, 20, 0},
		{"from the very first, of another log", 0, 0, 0, 25, 2, 20, 0},
	} {
		l, err := raftlog.Open(raftlog.Options{
			Dir: t.TempDir(), Logger: hclog.NewNullLogger(), Limit: 1 << 20, HoldLimit: 1 << 20, Hang: time.Minute,
			Failed: func(err error) { t.Error(err) }, Floor: func() uint64 { return 20 },
		})
		if err != nil {
			t.Fatal(err)
		}
		if tc.last > 0 {
			if err := l.StoreLogs(entries(tc.first, tc.last, 3)); err != nil {
				t.Fatal(err)
			}
		}
		tr := &Transport{replica: &Replica{
			Logger: slog.New(slog.DiscardHandler), Applied: &AppliedIndex{},
			Storage: Storage{Sm: durable{at: replication.Position{Index: 20, Term: 3}}, Log: l},
		}}
		tr.replica.Applied.Advance(20)
		req := &raft.AppendEntriesRequest{PrevLogEntry: tc.prev, PrevLogTerm: tc.term, Entries: entries(tc.prev+1, tc.to, tc.term)}
		tr.rebase(req)
		first := uint64(0)
		if len(req.Entries) > 0 {
			first = req.Entries[0].Index
		}
		if req.PrevLogEntry != tc.want || first != tc.wantFirst || tc.term == 2 && req.PrevLogTerm != 0 {
			t.Errorf("%s: after entry %d of term %d it begins with %d, want %d after %d", tc.name, req.PrevLogEntry, req.PrevLogTerm, first, tc.wantFirst, tc.want)
		}
		l.Close()
	}
}
