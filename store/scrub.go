package store

import (
	"bytes"
	"context"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// scrubStepChanges is how many changes one bbolt transaction goes over.
var scrubStepChanges = 4096

// scrubPause lets other work in between two steps.
const scrubPause = 2 * time.Millisecond

// scrub removes what the compaction that is in the file made unreadable: each
// version that another one has replaced up to there, and deletions before it.
// It goes by the log from where it ended the last time, so it costs what was
// written since, not what is stored.
func (f *flusher) scrub(ctx context.Context) error {
	target := f.durableState().Compacted
	f.mu.Lock()
	from := f.scrubbed
	f.mu.Unlock()
	if from.revision >= target {
		return nil
	}
	// Before the first version goes: readers look at it after they have begun.
	f.store.visible.scrubbing.Store(target)
	for more := true; more; {
		err := f.update(func(tx *bbolt.Tx) (err error) {
			s := &scrubStep{file: newFile(ctx, tx), target: target}
			if from, more, err = s.run(from); err != nil {
				return err
			}
			return tx.Bucket(bucketMeta).Put(scrubKey, encodeScrub(from))
		})
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.scrubbed = from
		f.mu.Unlock()
		if f.store.tables.Load().frozen != nil {
			f.poke() // A flush comes first: Apply may wait for it.
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(scrubPause):
		}
	}
	f.flushed.broadcast()
	return nil
}

// WaitScrubbed returns when all that a compaction to a revision removes is gone
// from the file, or with the context's error. The compaction must have been
// applied.
func (s *Store) WaitScrubbed(ctx context.Context, revision int64) error {
	f := s.flusher
	for {
		changed := f.flushed.wait()
		f.mu.Lock()
		scrubbed := f.scrubbed.revision
		f.mu.Unlock()
		if scrubbed >= revision {
			return nil
		}
		// The scrub goes by what the file knows of compactions.
		if err := s.Flush(ctx, s.Applied()); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// scrubStep is one transaction's part of a scrub up to target.
type scrubStep struct {
	file   *file
	target int64
	remove []place
	gone   [][]byte // Keys of which only a deletion is left.
}

// run takes the changes from a place on, and returns the place where the next
// step begins. A deletion at target itself can still be read, so the next scrub
// begins with target again.
func (s *scrubStep) run(from place) (next place, more bool, err error) {
	cursor := s.file.log.Cursor()
	left := scrubStepChanges
	next = place{revision: s.target}
	for key, record := cursor.Seek(from.logKey()); key != nil; key, record = cursor.Next() {
		at, err := readLogKey(key)
		if err != nil {
			return from, false, err
		}
		if at.revision > s.target {
			break
		}
		// The last revision is not left in the middle: a place in it is not the
		// end of a scrub.
		if left <= 0 && at.revision < s.target {
			next, more = at, true
			break
		}
		left--
		if err := s.look(at, record); err != nil {
			return from, false, err
		}
	}
	return next, more, s.removeAll()
}

// look decides what the version at a place lets go.
func (s *scrubStep) look(at place, record []byte) error {
	key, ver, err := readLogRecord(at, record)
	if err != nil || key == nil {
		return err
	}
	if ver.prev.revision > 0 && !ver.prevDeleted {
		// Also of what goes: a damaged record may name the wrong one.
		if s.file.log.Get(ver.prev.logKey()) != nil {
			if _, err := s.file.logged(key, ver.prev); err != nil {
				return err
			}
			s.remove = append(s.remove, ver.prev)
		}
	}
	if ver.exists() || at.revision == s.target {
		return nil
	}
	s.remove = append(s.remove, at)
	index := s.file.keys.Get(key)
	if index == nil {
		return corrupt("the index does not have key %.64q", key)
	}
	newest, err := readIndexRecord(key, index)
	if err == nil && newest.place == at {
		s.gone = append(s.gone, bytes.Clone(key))
	}
	return err
}

// removeAll goes in the order of pages.
func (s *scrubStep) removeAll() error {
	slices.SortFunc(s.remove, place.compare)
	for _, at := range s.remove {
		if err := s.file.log.Delete(at.logKey()); err != nil {
			return err
		}
	}
	slices.SortFunc(s.gone, bytes.Compare)
	for _, key := range s.gone {
		if err := s.file.keys.Delete(key); err != nil {
			return err
		}
	}
	return nil
}
