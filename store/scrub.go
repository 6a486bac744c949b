package store

import (
	"bytes"
	"context"
	"math"
	"time"

	"go.etcd.io/bbolt"
)

// scrubStepChanges is how many changes one bbolt transaction cleans up.
var scrubStepChanges = 256

// scrubPause lets other work in between two steps.
const scrubPause = 2 * time.Millisecond

// scrub removes what the compaction that is in the file made unreadable: log
// records before it, and of each key that they name the versions that were
// replaced before it. It goes by the log, so it costs what was written, not
// what is stored. After a crash it begins again where records are left.
func (f *flusher) scrub(ctx context.Context) error {
	target := f.durableState().Compacted
	f.mu.Lock()
	done := f.scrubbed >= target
	f.mu.Unlock()
	if done {
		return nil
	}
	// Before the first version goes: readers look at it after they have begun.
	f.store.scrubbing.Store(target)
	for {
		more := false
		err := f.store.db.Update(func(tx *bbolt.Tx) (err error) {
			if more, err = scrubStep(tx, target); err != nil || more {
				return err
			}
			return tx.Bucket(bucketMeta).Put(scrubKey, encodeScrub(target))
		})
		if err != nil {
			return err
		}
		if !more {
			break
		}
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
	f.mu.Lock()
	f.scrubbed = target
	f.mu.Unlock()
	return nil
}

// scrubStep takes the oldest log records up to target. It says whether there
// are more. The records of target itself stay: watches may begin there.
func scrubStep(tx *bbolt.Tx, target int64) (more bool, err error) {
	log, kv := tx.Bucket(bucketLog), tx.Bucket(bucketKV)
	cursor := log.Cursor()
	cleaned := map[string]bool{}
	var remove [][]byte
	left := scrubStepChanges
	for key, record := cursor.First(); key != nil && !more; key, record = cursor.Next() {
		revision, _, err := readLogKey(key)
		if err != nil {
			return false, err
		}
		if revision > target {
			break
		}
		if revision == target {
			left = math.MaxInt
		}
		_, changes, err := readLogRecord(key, record)
		if err != nil {
			return false, err
		}
		for _, c := range changes {
			prefix := keyPrefix(c.versionKey)
			if cleaned[string(prefix)] {
				continue
			}
			cleaned[string(prefix)] = true
			removed, err := scrubKeyVersions(kv, prefix, target, left)
			if err != nil {
				return false, err
			}
			if left -= removed; left <= 0 {
				return true, removeAll(log, remove) // The next step comes back to this record.
			}
		}
		if revision < target {
			remove = append(remove, bytes.Clone(key))
			left -= len(changes)
		}
		more = left <= 0
	}
	return more, removeAll(log, remove)
}

func removeAll(bucket *bbolt.Bucket, keys [][]byte) error {
	for _, key := range keys {
		if err := bucket.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// scrubKeyVersions removes the versions of a key that no revision from target
// on can see, at most limit of them.
func scrubKeyVersions(kv *bbolt.Bucket, prefix []byte, target int64, limit int) (removed int, err error) {
	var remove [][]byte
	var tombstone []byte
	cursor := kv.Cursor()
	key, record := cursor.Seek(appendRevision(bytes.Clone(prefix), target))
	for first := true; bytes.HasPrefix(key, prefix); key, record = cursor.Next() {
		if len(remove) == limit {
			// A tombstone goes last: without it the key would be there again.
			return limit, removeAll(kv, remove)
		}
		// Also of what goes: a damaged key may be the wrong one.
		ver, err := readVersion(key, record)
		if err != nil {
			return 0, err
		}
		if first {
			first = false
			// What a deletion before target leaves behind is nothing.
			if ver.deleted() && ver.revision < target {
				tombstone = bytes.Clone(key)
			}
			continue
		}
		remove = append(remove, bytes.Clone(key))
	}
	if tombstone != nil {
		remove = append(remove, tombstone)
	}
	return len(remove), removeAll(kv, remove)
}
