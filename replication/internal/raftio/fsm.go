package raftio

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/entry"
	"github.com/batondb/baton/replication/internal/raftlog"
)

// ErrReplaced ends the process after a snapshot has replaced the end of a log.
var ErrReplaced = errors.New("a snapshot has replaced the end of the log; a restart goes on from it")

// fsm drives the state machine for the library.
type fsm struct {
	sm      replication.StateMachine
	applied *AppliedIndex
	trail   *Trail
	// members is told of every committed membership, on the library's goroutine.
	members func(index uint64, c raft.Configuration)
	observe func(before, index, term uint64, data []byte) // see Options.Observe
	fail    func(error)
	// logEnd is the last index of the log.
	logEnd func() (uint64, error)
	proven *proven
	// last is the index of the last entry that was given out, and lastTerm its term.
	last, lastTerm uint64
	// given is the last one that the state machine got.
	given uint64
	// broken is why nothing is applied any more: an entry that must not be skipped.
	broken error
	// restoring is the snapshot that the next Restore gets.
	restoring *spool
}

var _ raft.BatchingFSM = (*fsm)(nil)

// Apply is here for the interface: the library calls ApplyBatch.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. A command entry's response is
// []*kvv1.Result or an error.
//
// The library's ConfigurationStore is not used: it is never called for an FSM
// that takes batches, whose entries carry the term as well.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	responses := make([]any, len(logs))
	for i, l := range logs {
		if f.broken == nil {
			f.broken = f.check(l)
		}
		if f.broken == nil && l.Index > f.sm.Applied() {
			responses[i], f.broken = f.apply(l)
			f.mark(l.Index)
		}
		if f.broken != nil {
			responses[i] = f.broken
		}
	}
	if f.broken != nil {
		f.fail(f.broken)
	}
	f.applied.Advance(f.sm.Applied())
	return responses
}

// mark notes what the state machine has after an entry, unless it has failed
// over it.
func (f *fsm) mark(index uint64) {
	if f.sm.Applied() != index {
		return
	}
	revision, hash := f.sm.Digest()
	f.trail.Note(replication.Mark{Index: index, Revision: revision, Hash: hash})
}

// check holds the library to what it promises: entries come once, in the order of
// the log, whose terms never fall (Raft paper, 5.3 and 5.4.3), and only those that
// a master has, see proven.
func (f *fsm) check(l *raft.Log) error {
	switch end := f.proven.end(); {
	case l.Index <= f.last || l.Term < f.lastTerm:
		return fmt.Errorf("%w: entry %d of term %d is to be applied after entry %d of term %d", raftlog.ErrInvariant, l.Index, l.Term, f.last, f.lastTerm)
	case l.Index > end:
		return fmt.Errorf("%w: entry %d of term %d is to be applied, but no master has shown more than entry %d", raftlog.ErrInvariant, l.Index, l.Term, end)
	}
	f.last, f.lastTerm = l.Index, l.Term
	return nil
}

func (f *fsm) apply(l *raft.Log) (any, error) {
	// A database that has failed applies nothing more, until its process ends.
	if before := f.sm.Applied(); f.observe != nil && before >= f.given {
		f.observe(before, l.Index, l.Term, l.Data)
	}
	f.given = l.Index
	switch l.Type {
	case raft.LogConfiguration:
		f.sm.ApplyConfiguration(l.Index, l.Term, l.Data)
		f.members(l.Index, raft.DecodeConfiguration(l.Data))
		return nil, nil
	case raft.LogCommand:
		if err := intact(l); err != nil {
			return nil, err
		}
		commands, err := entry.Decode(l.Data)
		if err != nil {
			return nil, fmt.Errorf("log entry %d: %w", l.Index, err)
		}
		results := f.sm.Apply(l.Index, l.Term, commands)
		if len(results) != len(commands) {
			return nil, fmt.Errorf("log entry %d: %d results for %d commands", l.Index, len(results), len(commands))
		}
		return results, nil
	default:
		return nil, fmt.Errorf("log entry %d: %w: type %s", l.Index, entry.ErrUnknown, l.Type)
	}
}

// intact compares an entry with what was written. The library panics over a
// membership that it cannot decode.
func intact(l *raft.Log) (err error) {
	defer func() {
		if why := recover(); why != nil {
			err = fmt.Errorf("log entry %d: %w: %v", l.Index, entry.ErrCorrupt, why)
		}
	}()
	switch l.Type {
	case raft.LogCommand:
		if err := entry.Verify(l.Data, l.Extensions); err != nil {
			return fmt.Errorf("log entry %d: %w", l.Index, err)
		}
	case raft.LogConfiguration:
		raft.DecodeConfiguration(l.Data)
	}
	return nil
}

// Snapshot implements raft.FSM. It copies nothing.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return &flushSnapshot{sm: f.sm, index: f.sm.Applied()}, nil
}

// Restore implements raft.FSM: what InstallSnapshot received becomes the database.
func (f *fsm) Restore(r io.ReadCloser) error {
	s := f.restoring
	f.restoring = nil
	if s == nil {
		return errors.New("there is no received snapshot to restore")
	}
	if s.index <= f.sm.Applied() {
		// Going back would show a reader an older revision, and would empty a
		// log whose end the master may have counted on. What was applied is in
		// the log or the database already, see Transport.has.
		// (TestRestoreDoesNotGoBack)
		return fmt.Errorf("the snapshot at %d is older than the database at %d", s.index, f.sm.Applied())
	}
	if err := f.sm.Restore(r); errors.Is(err, replication.ErrDamaged) {
		return fmt.Errorf("restore a snapshot: %s: %w", snapshotDamaged, err)
	} else if err != nil {
		return fmt.Errorf("restore a snapshot: %w", err)
	}
	if at := f.sm.Applied(); at != s.index {
		// The library goes on from where the message said that it is.
		err := fmt.Errorf("%w: it was said to be of entry %d, and is of %d", ErrReplaced, s.index, at)
		f.fail(err)
		return err
	}
	f.members(s.configurationIndex, s.configuration)
	f.mark(s.index)
	f.applied.Advance(f.sm.Applied())
	f.last = s.index
	return f.replaced(s.index)
}

// replaced looks for entries beyond a snapshot. They come from an earlier master:
// the one that sent the snapshot would have sent what follows them instead. The
// library empties the log, but still believes in its old end and refuses the
// entries that it gets. Only a restart makes it look again; see also
// raftlog.Log.Reconcile. (TestASnapshotBelowTheEndOfTheLog)
func (f *fsm) replaced(index uint64) error {
	last, err := f.logEnd()
	if err == nil && last > index {
		err = fmt.Errorf("%w: it ended at %d, the snapshot at %d", ErrReplaced, last, index)
	}
	if err != nil {
		f.fail(err)
	}
	return err
}
