package raftio

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/batondb/baton/replication/internal/slogger"
	"github.com/batondb/baton/replication/internal/volume"
)

// Storage is what the replica reads and writes.
type Storage struct {
	Sm    replication.StateMachine
	Log   *raftlog.Log
	votes *raftlog.Votes
}

// OpenStorage opens log and votes beside sm, and makes the three fit together.
func OpenStorage(o *replication.Options, logger *slog.Logger, id volume.Identity, sm replication.StateMachine, fail func(error)) (Storage, error) {
	dir := filepath.Join(o.Dir, "raft")
	if err := removeSpools(o.Dir); err != nil {
		return Storage{}, err
	}
	log, err := raftlog.Open(raftlog.Options{
		Dir: dir, Logger: slogger.New(logger), VFS: o.LogFS,
		Limit: o.LogBytes, HoldLimit: o.LogHoldBytes, Hang: o.Timing.Hang, Failed: fail,
		Floor: func() uint64 { return sm.Durable().Index }, Applied: sm.Applied, Intact: intact,
	})
	if err != nil {
		return Storage{}, err
	}
	votes, err := raftlog.OpenVotes(filepath.Join(dir, "vote.db"), o.Timing.Hang, fail, log.Settle)
	if err != nil {
		log.Close()
		return Storage{}, fmt.Errorf("open the votes: %w", err)
	}
	votes.Committed = o.Committed
	st := Storage{sm, log, votes}
	if err := st.prepare(id); err != nil {
		st.Close()
		return Storage{}, err
	}
	return st, nil
}

// Close closes log and votes; the state machine is its owner's.
func (s Storage) Close() error { return errors.Join(s.Log.Close(), s.votes.Close()) }

// currentTerm is the library's name for the term.
var currentTerm = []byte("CurrentTerm")

// prepare makes log, votes and database fit together: the first entry of a new
// cluster, or a log that a received database has overtaken.
func (s Storage) prepare(id volume.Identity) error {
	at := s.Sm.Durable()
	if err := s.Log.Reconcile(at.Index, at.Term); err != nil {
		return err
	}
	last, err := s.Log.LastIndex()
	if err != nil {
		return err
	}
	term, err := s.votes.GetUint64(currentTerm)
	if err != nil && !errors.Is(err, raftlog.ErrNotFound) {
		return err
	}
	switch {
	case id.Stage == volume.Data && id.JoinedIndex > 0 && term < max(at.Term, 1):
		// It may have voted, and have acknowledged entries: it must do neither again.
		return fmt.Errorf("%w: the votes are gone", replication.ErrDamaged)
	case term < at.Term:
		// A database that was received, or restored from a backup, on a disk
		// that has never voted.
		return s.votes.SetUint64(currentTerm, at.Term)
	case last > 0 || at.Index > 0:
		return nil
	case id.Stage != volume.Bootstrapping:
		return fmt.Errorf("%w: it is empty, and so is the database, though this disk had data", replication.ErrDamaged)
	}
	// What raft.BootstrapCluster does, in steps that can be repeated
	// (TestBootstrapIsRepeatable). The first configuration is committed by being
	// the only member's (Raft thesis, 4.4).
	if err := s.votes.SetUint64(currentTerm, 1); err != nil {
		return err
	}
	self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(id.MemberID), Address: raft.ServerAddress(id.MemberID)}
	return s.Log.StoreLog(&raft.Log{
		Index: 1, Term: 1, Type: raft.LogConfiguration,
		Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}}),
	})
}

// LastEntry is the end of the log, or of the database if the log is empty.
func (s Storage) LastEntry() (index, term uint64) {
	var last raft.Log
	index, err := s.Log.LastIndex()
	if err == nil && index > 0 && s.Log.GetLog(index, &last) == nil {
		return last.Index, last.Term
	}
	at := s.Sm.Durable()
	return at.Index, at.Term
}
