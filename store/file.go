package store

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/bbolt"
)

// file reads versions in one transaction of the database. The index has each
// key's newest version; older ones are found by going back from it, so a read
// at an old revision takes a step for each later version of the key. For one
// goroutine.
type file struct {
	ctx  context.Context
	keys *bbolt.Bucket
	log  *bbolt.Bucket

	// Cursors, and room for a key: Bucket.Get makes new ones each time.
	inKeys, inLog *bbolt.Cursor
	logKey        [placeBytes]byte
}

func newFile(ctx context.Context, tx *bbolt.Tx) *file {
	f := &file{ctx: ctx, keys: tx.Bucket(bucketKeys), log: tx.Bucket(bucketLog)}
	f.inKeys, f.inLog = f.keys.Cursor(), f.log.Cursor()
	return f
}

func find(cursor *bbolt.Cursor, key []byte) (record []byte) {
	if found, record := cursor.Seek(key); bytes.Equal(found, key) {
		return record
	}
	return nil
}

// get finds the version of a key that was valid at a revision: maybe a
// deletion, maybe one that is not whole. The zero version is none.
func (f *file) get(key []byte, revision int64) (version, error) {
	record := find(f.inKeys, key)
	if record == nil {
		return version{}, nil
	}
	newest, err := readIndexRecord(key, record)
	if err != nil {
		return version{}, err
	}
	return f.back(key, newest, revision)
}

// back goes from a version to the one that was valid at a revision.
func (f *file) back(key []byte, at version, revision int64) (_ version, err error) {
	for steps := 1; at.place.revision > revision; steps++ {
		if steps%cancelEvery == 0 && f.ctx.Err() != nil {
			return version{}, f.ctx.Err()
		}
		if !at.whole {
			if at, err = f.logged(key, at.place); err != nil {
				return version{}, err
			}
		}
		if at.prev.revision == 0 {
			return version{}, nil
		}
		if at.prevDeleted && at.prev.revision <= revision {
			// The compaction may have removed it. There is nothing in it to read.
			return version{place: at.prev}, nil
		}
		if at, err = f.logged(key, at.prev); err != nil {
			return version{}, err
		}
	}
	return at, nil
}

// logged reads the version of a key at a place that the file must have.
func (f *file) logged(key []byte, at place) (version, error) {
	record := find(f.inLog, at.appendLogKey(f.logKey[:0]))
	if record == nil {
		return version{}, corrupt("the log does not have key %.64q at revision %d", key, at.revision)
	}
	named, ver, err := readLogRecord(at, record)
	if err == nil && !bytes.Equal(named, key) {
		err = corrupt("the log has another key than %.64q at revision %d", key, at.revision)
	}
	return ver, err
}

// fileSource walks the index. Over damaged pages bbolt may go back, and a walk
// never end: that panics here, see guard.
type fileSource struct {
	file        *file
	cursor      *bbolt.Cursor
	base        int64 // See view.onDisk.
	name, index []byte
}

func (s *fileSource) seek(key []byte) {
	s.name, s.index = s.cursor.Seek(key)
	if s.name != nil && bytes.Compare(s.name, key) < 0 {
		panic(fmt.Sprintf("the search for %.64x ends at %.64x", key, s.name))
	}
}

func (s *fileSource) next() {
	before := s.name
	s.name, s.index = s.cursor.Next()
	if s.name != nil && bytes.Compare(s.name, before) <= 0 {
		panic(fmt.Sprintf("key %.64x comes after %.64x", s.name, before))
	}
}

func (s *fileSource) key() []byte { return s.name }

func (s *fileSource) version(revision int64) (version, error) {
	newest, err := readIndexRecord(s.name, s.index)
	if err != nil {
		return version{}, err
	}
	return s.file.back(s.name, newest, min(revision, s.base))
}

func (s *fileSource) last(bound []byte) []byte {
	if bound == nil {
		key, _ := s.cursor.Last()
		return key
	}
	if key, _ := s.cursor.Seek(bound); key == nil {
		key, _ = s.cursor.Last()
		return key
	}
	key, _ := s.cursor.Prev()
	if bytes.Compare(key, bound) >= 0 {
		panic(fmt.Sprintf("key %.64x comes before %.64x", key, bound))
	}
	return key
}
