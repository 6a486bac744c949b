package raftlog

import (
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

func openAgain(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Open(Options{
		Dir: dir, Logger: hclog.NewNullLogger(), Limit: 1 << 20, HoldLimit: 1 << 20, Hang: time.Minute,
		Failed: func(err error) { t.Error(err) }, Floor: func() uint64 { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func entriesOf(from, to, term uint64) []*raft.Log {
	var all []*raft.Log
	for i := from; i <= to; i++ {
		all = append(all, &raft.Log{Index: i, Term: term, Data: make([]byte, 100)})
	}
	return all
}

// A follower drops the end of its log when a new master has another one, and is
// restarted then. raft-wal 0.4.0 could not read such a log again
// (hashicorp/raft-wal #31): the pod never came back.
func TestReadableAfterItsEndWasCutAndARestart(t *testing.T) {
	dir := t.TempDir()
	l := openAgain(t, dir)
	for _, step := range []struct{ from, to, cut uint64 }{{1, 50, 40}, {40, 60, 55}, {55, 58, 0}} {
		if err := l.StoreLogs(entriesOf(step.from, step.to, step.from)); err != nil {
			t.Fatal(err)
		}
		if step.cut > 0 {
			if err := l.DeleteRange(step.cut, step.to); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = openAgain(t, dir)
	}
	defer l.Close()
	for index, term := range map[uint64]uint64{1: 1, 39: 1, 40: 40, 54: 40, 55: 55, 58: 55} {
		var e raft.Log
		if err := l.GetLog(index, &e); err != nil || e.Term != term {
			t.Errorf("entry %d: term %d, want %d (%v)", index, e.Term, term, err)
		}
	}
}
