package raftio

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/batondb/baton/replication/internal/slogger"
)

// ReadLog reads the whole log in dir beside sm, as a check, and returns the
// newest membership. No process may have dir open.
func ReadLog(dir string, logger *slog.Logger, sm replication.StateMachine) ([]byte, error) {
	membership := sm.Durable().Configuration
	log, err := openLog(dir, logger)
	if err != nil {
		return nil, err
	}
	err = eachEntry(log, sm.Durable().Index, func(l *raft.Log) error {
		if l.Type == raft.LogConfiguration {
			membership = l.Data
		}
		return intact(l)
	})
	return membership, errors.Join(err, log.Close())
}

// ReplayLog applies all of the log: whether its last entries were acknowledged is
// not known any more, and those that were must not be lost.
func ReplayLog(ctx context.Context, dir string, logger *slog.Logger, sm replication.StateMachine) error {
	log, err := openLog(dir, logger)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := log.Reconcile(sm.Durable().Index, sm.Durable().Term); err != nil {
		return err
	}
	machine := &fsm{sm: sm, applied: &AppliedIndex{}, trail: &Trail{}, members: func(uint64, raft.Configuration) {}, fail: func(error) {}}
	err = eachEntry(log, sm.Applied(), func(l *raft.Log) error {
		if l.Type == raft.LogCommand || l.Type == raft.LogConfiguration {
			machine.ApplyBatch([]*raft.Log{l})
		}
		return errors.Join(machine.broken, ctx.Err())
	})
	if err != nil {
		return err
	}
	return sm.Flush(ctx, sm.Applied())
}

// openLog opens the log of a directory that no process has open. Nothing is
// written to it but what opening repairs.
func openLog(dir string, logger *slog.Logger) (*raftlog.Log, error) {
	return raftlog.Open(raftlog.Options{
		Dir: filepath.Join(dir, "raft"), Logger: slogger.New(cmp.Or(logger, slog.New(slog.DiscardHandler))),
		Limit: 1 << 62, HoldLimit: 1 << 62, Hang: time.Hour, Failed: func(error) {},
		Floor: func() uint64 { return 0 },
	})
}

// eachEntry reads a log from the entry after an index to its end.
func eachEntry(log *raftlog.Log, after uint64, do func(*raft.Log) error) error {
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	for index := max(first, after+1); index <= last; index++ {
		var l raft.Log
		if err := log.GetLog(index, &l); err != nil {
			return err
		}
		if err := do(&l); err != nil {
			return err
		}
	}
	return nil
}
