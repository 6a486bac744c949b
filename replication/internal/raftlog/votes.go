package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/batondb/baton/replication"
)

// The file is as raft-boltdb lays it out: a bucket of keys, and numbers in eight
// bytes, big-endian. It also has a bucket "logs" when raft-boltdb made it.
var bucket = []byte("conf")

// The library's names for the two parts of a vote.
var voteTerm, voteCandidate = []byte("LastVoteTerm"), []byte("LastVoteCand")

// ErrNotFound is returned for a key that was never set. The library knows it by
// its text.
var ErrNotFound = errors.New("not found")

// Votes keeps the term and the vote, watched like the log. It is a
// raft.StableStore.
//
// The library stores a vote in two calls: its term, and then the candidate. Of
// the first alone nothing reaches the disk. A crash in between would leave the
// new term with the candidate of the vote before, who would be told again that
// it has this pod's vote, whatever it has in its log. (Raft paper, 5.2 and
// 5.4.1: a server votes once in a term, and for no log that lacks what its own
// has; TestAVoteIsOneStep.)
type Votes struct {
	// Committed is called after each transaction, before what it stored counts as
	// stored; nil: nothing is. It is set before the first one.
	Committed func(path string, transaction int)

	db     *bbolt.DB
	hang   time.Duration
	failed func(error)
	settle func() error

	mu   sync.Mutex // guards term
	term []byte     // of the vote whose candidate is not known yet
}

var _ raft.StableStore = (*Votes)(nil)

// OpenVotes opens the file at path. settle is called before a term is stored:
// it makes durable what the log got in the term before.
func OpenVotes(path string, hang time.Duration, failed func(error), settle func() error) (*Votes, error) {
	options := *bbolt.DefaultOptions
	options.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		return os.OpenFile(name, flag|syscall.O_NOFOLLOW, mode)
	}
	db, err := bbolt.Open(path, 0o600, &options)
	if err != nil {
		return nil, orDamaged(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Votes{db: db, hang: hang, failed: failed, settle: settle}, nil
}

// orDamaged says replication.ErrDamaged of a file that bbolt does not take for its own. One of
// another version of its format is not damaged: one flipped bit has that in one of
// two places.
func orDamaged(err error) error {
	for _, damage := range []error{bolterrors.ErrInvalid, bolterrors.ErrChecksum, types.ErrCorrupt} {
		if errors.Is(err, damage) {
			return errors.Join(replication.ErrDamaged, err)
		}
	}
	return err
}

// Set implements raft.StableStore.
func (v *Votes) Set(key, val []byte) error {
	var term []byte
	if bytes.Equal(key, voteCandidate) {
		v.mu.Lock()
		term, v.term = v.term, nil
		v.mu.Unlock()
	}
	return v.put("storing a vote", func(b *bbolt.Bucket) error {
		if term != nil {
			if err := b.Put(voteTerm, term); err != nil {
				return err
			}
		}
		return b.Put(key, val)
	})
}

// SetUint64 implements raft.StableStore.
func (v *Votes) SetUint64(key []byte, val uint64) error {
	if err := v.settle(); err != nil {
		return err
	}
	number := binary.BigEndian.AppendUint64(nil, val)
	if bytes.Equal(key, voteTerm) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.term = number
		return nil
	}
	return v.put("storing the term", func(b *bbolt.Bucket) error { return b.Put(key, number) })
}

func (v *Votes) put(what string, change func(*bbolt.Bucket) error) error {
	return Watch(what, v.hang, v.failed, func() error {
		number := 0
		err := v.db.Update(func(tx *bbolt.Tx) error {
			number = tx.ID()
			return change(tx.Bucket(bucket))
		})
		if err == nil && v.Committed != nil {
			v.Committed(v.db.Path(), number)
		}
		return err
	})
}

// Get implements raft.StableStore.
func (v *Votes) Get(key []byte) (val []byte, err error) {
	err = v.db.View(func(tx *bbolt.Tx) error {
		val = bytes.Clone(tx.Bucket(bucket).Get(key))
		return nil
	})
	if err == nil && val == nil {
		err = ErrNotFound
	}
	return val, err
}

// GetUint64 implements raft.StableStore.
func (v *Votes) GetUint64(key []byte) (uint64, error) {
	val, err := v.Get(key)
	switch {
	case err != nil:
		return 0, err
	case len(val) != 8:
		return 0, errors.Join(replication.ErrDamaged, errors.New(string(key)+" is not a number"))
	}
	return binary.BigEndian.Uint64(val), nil
}

// Close closes the file.
func (v *Votes) Close() error { return v.db.Close() }
