package raftlog

import (
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// Votes keeps the term and the vote, watched like the log.
type Votes struct {
	db     *raftboltdb.BoltStore
	hang   time.Duration
	failed func(error)
	settle func() error
}

var _ raft.StableStore = (*Votes)(nil)

// OpenVotes opens the file at path. settle is called before a term is stored:
// it makes durable what the log got in the term before.
func OpenVotes(path string, hang time.Duration, failed func(error), settle func() error) (*Votes, error) {
	db, err := raftboltdb.NewBoltStore(path)
	if err != nil {
		return nil, err
	}
	return &Votes{db: db, hang: hang, failed: failed, settle: settle}, nil
}

// Set implements raft.StableStore.
func (v *Votes) Set(key, val []byte) error {
	return Watch("storing a vote", v.hang, v.failed, func() error { return v.db.Set(key, val) })
}

// SetUint64 implements raft.StableStore.
func (v *Votes) SetUint64(key []byte, val uint64) error {
	if err := v.settle(); err != nil {
		return err
	}
	return Watch("storing the term", v.hang, v.failed, func() error { return v.db.SetUint64(key, val) })
}

// Get implements raft.StableStore.
func (v *Votes) Get(key []byte) ([]byte, error) { return v.db.Get(key) }

// GetUint64 implements raft.StableStore.
func (v *Votes) GetUint64(key []byte) (uint64, error) { return v.db.GetUint64(key) }

// Close closes the file.
func (v *Votes) Close() error { return v.db.Close() }
