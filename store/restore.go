package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/batondb/baton/replication"
)

// Restore replaces the content of an open store with a snapshot's, read from a stream;
// the snapshot must be from a later position of the same log. All or nothing: when it
// fails before the exchange, the store is as it was. Reads and watches go on
// with the new content; open snapshots end. It must not run at the same time as
// Apply.
func (s *Store) Restore(r io.Reader) error {
	err := s.restore(r)
	if errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w: %w", replication.ErrDamaged, err)
	}
	return err
}

func (s *Store) restore(r io.Reader) error {
	temporary := s.path() + ".receiving"
	st, err := receive(temporary, func(w io.Writer) error { return readStream(w, r) })
	if err == nil && st.Revision < s.visible.revision.Load() {
		err = fmt.Errorf("store: a snapshot of revision %d cannot replace revision %d", st.Revision, s.visible.revision.Load())
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(temporary))
	}
	s.applier.mu.Lock()
	defer s.applier.mu.Unlock()
	s.flusher.stop()
	s.database.swap.Lock()
	s.streams.close()
	err = s.exchange(temporary)
	s.database.swap.Unlock()
	if err != nil {
		s.fail(err)
		return err
	}
	s.flusher.start()
	s.watches.reread(s.visible.revision.Load())
	s.watches.recheck() // The rights are others, too.
	s.revised.broadcast()
	return nil
}

// exchange puts a received file in the place of the open one.
func (s *Store) exchange(temporary string) error {
	if s.database.closed {
		return ErrClosed
	}
	if err := s.closeFile(); err != nil {
		return fmt.Errorf("store: restore: %w", err)
	}
	if err := rename(temporary, s.path()); err != nil {
		return err
	}
	return s.load()
}

// restoredRevisions is added, at least, to the revision when a backup begins a
// new history: more than any cluster writes after a backup.
const restoredRevisions = 1_000_000_000

// restoredRevision is where a new history begins, so that revisions that clients
// have seen never come again, even if one backup is restored twice: at the
// time in microseconds, which no history reaches that began earlier and writes
// less than a million revisions a second. It is below 2^53, so that programs
// which take numbers for floats keep all of it, until the year 2255. A clock
// that is behind takes nothing from the minimum.
func restoredRevision(backup int64, now time.Time) int64 {
	return max(backup+restoredRevisions, now.UnixMicro())
}

// RestoreFile makes a snapshot file the database of a new history in dir, which
// must hold none. The content is checked first, as by Verify. The new history
// begins at index 1 and term 1 with the given membership, at a revision far
// above the snapshot's; older revisions are compacted away, and requests of
// before are refused as expired. progress (may be nil) is told bytes done and
// in all.
func RestoreFile(ctx context.Context, path, dir string, configuration []byte, progress func(done, total int64)) (Info, error) {
	return restoreTo(ctx, dir, configuration, func(temporary string) error {
		return receiveFile(ctx, path, temporary, progress)
	})
}

// BeginHistory is RestoreFile with a snapshot stream: a third copy of the data may
// not have room.
func BeginHistory(ctx context.Context, dir string, stream io.Reader, configuration []byte) error {
	_, err := restoreTo(ctx, dir, configuration, func(temporary string) error {
		_, err := receive(temporary, func(w io.Writer) error { return readStream(w, &countingReader{ctx: ctx, r: stream}) })
		return err
	})
	return err
}

// restoreTo begins a new history with the database that receive writes to a path.
func restoreTo(ctx context.Context, dir string, configuration []byte, receive func(path string) error) (Info, error) {
	if Exists(dir) {
		return Info{}, fmt.Errorf("store: %s has a database: restore into an empty directory", dir)
	}
	temporary := filepath.Join(dir, FileName+".restoring")
	info, err := restore(ctx, temporary, configuration, receive)
	if err != nil {
		return Info{}, errors.Join(err, os.RemoveAll(temporary))
	}
	return info, rename(temporary, filepath.Join(dir, FileName))
}

func restore(ctx context.Context, temporary string, configuration []byte, receive func(path string) error) (Info, error) {
	if err := receive(temporary); err != nil {
		return Info{}, err
	}
	db, err := openFile(temporary, false)
	if err != nil {
		return Info{}, err
	}
	var info Info
	err = careful(func() error {
		return db.Update(func(tx *bbolt.Tx) error {
			if err := check(ctx, tx); err != nil {
				return err
			}
			if err := beginHistory(ctx, tx, configuration, time.Now()); err != nil {
				return err
			}
			info, err = readInfo(tx)
			return err
		})
	})
	return info, errors.Join(err, db.Close())
}

// beginHistory cuts what the file holds off from the log it came from.
func beginHistory(ctx context.Context, tx *bbolt.Tx, configuration []byte, now time.Time) error {
	st, _, err := loadState(tx)
	if err != nil {
		return err
	}
	if err := removeAbove(ctx, tx, &st); err != nil {
		return err
	}
	if err := tx.DeleteBucket(bucketRequests); err != nil {
		return err
	}
	if _, err := tx.CreateBucket(bucketRequests); err != nil {
		return err
	}
	st.Index, st.Term, st.ConfigurationIndex, st.Configuration = 1, 1, 1, configuration
	st.Revision = restoredRevision(st.Revision, now)
	st.Compacted = st.Revision
	st.Requests = requestWindow{Floor: st.Revision}
	// The oldest revision that is kept has a log record; this one changed nothing.
	at := place{revision: st.Revision}
	if err := tx.Bucket(bucketLog).Put(at.logKey(), sealLogRecord(at, make([]byte, bodyAt), st.Hash)); err != nil {
		return err
	}
	return tx.Bucket(bucketMeta).Put(stateKey, st.encode())
}

// removeAbove removes what a flush that had not ended left in the file: no log
// will write it again.
func removeAbove(ctx context.Context, tx *bbolt.Tx, st *state) error {
	revision := st.Revision
	f := newFile(ctx, tx)
	back := map[string][]byte{} // What the index has of a key without it; nil: nothing.
	cursor := f.keys.Cursor()
	for key, record := cursor.First(); key != nil; key, record = cursor.Next() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		newest, err := readIndexRecord(key, record)
		if err != nil {
			return err
		}
		if newest.place.revision <= revision {
			continue
		}
		before, err := f.back(key, newest, revision)
		if err != nil {
			return err
		}
		back[string(key)] = nil
		if f.log.Get(before.place.logKey()) != nil { // Else none, or a deletion that is gone already.
			back[string(key)] = indexRecord(key, &before, st.Format >= tenantsFormat)
		}
	}
	for _, key := range sortedKeys(back) {
		var err error
		if record := back[key]; record != nil {
			err = f.keys.Put([]byte(key), record)
		} else {
			err = f.keys.Delete([]byte(key))
		}
		if err != nil {
			return err
		}
	}
	var records [][]byte
	cursor = f.log.Cursor()
	for key, _ := cursor.Seek(place{revision: revision + 1}.logKey()); key != nil; key, _ = cursor.Next() {
		records = append(records, bytes.Clone(key))
	}
	for _, key := range records {
		if err := f.log.Delete(key); err != nil {
			return err
		}
	}
	return nil
}
