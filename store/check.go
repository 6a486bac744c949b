package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/bbolt"
)

// Check flushes, and verifies every invariant of the file: bbolt's own; the
// checksum of every record; that versions of a key follow each other; that the
// log and the versions name each other, and the running hash follows from them;
// that leases and their keys agree; and that requests and their order agree. It
// reads everything. It fails with ErrCorrupt and all that it found.
func (s *Store) Check(ctx context.Context) (err error) {
	if err := s.Flush(ctx, s.Applied()); err != nil {
		return err
	}
	s.swap.RLock()
	defer s.swap.RUnlock()
	if s.closed {
		return ErrClosed
	}
	defer s.guard(&err)
	if err := s.checkPages(); err != nil {
		return err
	}
	return careful(func() error {
		return s.db.View(func(tx *bbolt.Tx) error { return checkRecords(ctx, tx) })
	})
}

// checkPages holds up the flush: pages are checked against the list of free
// ones, which is that of the newest transaction.
func (s *Store) checkPages() error {
	writer, err := s.db.Begin(true)
	if err != nil {
		return fmt.Errorf("store: check: %w", err)
	}
	err = careful(func() error { return s.db.View(checkPages) })
	return errors.Join(err, writer.Rollback())
}

// maxFindings bounds what one check reports.
const maxFindings = 20

// checker goes through one transaction. What a flush that did not end has left
// above the state is not looked at.
type checker struct {
	ctx      context.Context
	tx       *bbolt.Tx
	st       state
	scrubbed int64
	findings []error
}

// check is for a file that nobody writes.
func check(ctx context.Context, tx *bbolt.Tx) error {
	if err := checkPages(tx); err != nil {
		return err
	}
	return checkRecords(ctx, tx)
}

func checkPages(tx *bbolt.Tx) error {
	if err := checkStructure(tx); err != nil {
		return err
	}
	c := &checker{}
	for err := range tx.Check() {
		c.found("bbolt: %v", err)
	}
	return errors.Join(c.findings...)
}

func checkRecords(ctx context.Context, tx *bbolt.Tx) error {
	st, scrubbed, err := loadState(tx)
	if err != nil {
		return err
	}
	c := &checker{ctx: ctx, tx: tx, st: st, scrubbed: scrubbed}
	for _, pass := range []func(){c.versions, c.history, c.leases, c.requests} {
		if pass(); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(c.findings...)
}

func (c *checker) found(format string, args ...any) {
	if len(c.findings) < maxFindings {
		c.findings = append(c.findings, corrupt(format, args...))
	}
}

// versions walks kv: all versions of a key are neighbours, the newest first.
func (c *checker) versions() {
	var newer version
	var newerPrefix []byte
	cursor := c.tx.Bucket(bucketKV).Cursor()
	for key, record := cursor.First(); key != nil && c.ctx.Err() == nil; key, record = cursor.Next() {
		if err := checkVersionKey(key); err != nil {
			c.found("kv key %.64x: %v", key, err)
			continue
		}
		ver, err := readVersion(key, record)
		if err != nil {
			c.found("%v", err)
			continue
		}
		if ver.revision > c.st.Revision {
			continue
		}
		sameKey := bytes.Equal(newerPrefix, keyPrefix(key))
		switch {
		case !sameKey:
			c.newest(key, &ver)
		case newer.revision > c.st.Compacted:
			c.succession(key, &newer, &ver)
		case c.scrubbed >= c.st.Compacted:
			c.found("key %q has version %d (revision %d), which the compaction to %d should have removed", userKey(key), ver.version, ver.revision, c.st.Compacted)
		}
		if ver.deleted() && ver.revision < c.scrubbed && c.scrubbed == c.st.Compacted {
			c.found("key %q has a deletion at revision %d, which the compaction to %d should have removed", userKey(key), ver.revision, c.st.Compacted)
		}
		if ver.revision > c.st.Compacted && c.tx.Bucket(bucketLog).Get(logKey(ver.revision, 0)) == nil {
			c.found("key %q has revision %d, which the log does not have", userKey(key), ver.revision)
		}
		newer, newerPrefix = ver, bytes.Clone(keyPrefix(key))
	}
}

func (c *checker) succession(key []byte, newer, older *version) {
	if newer.deleted() {
		if older.deleted() {
			c.found("key %q was deleted twice, at %d and %d", userKey(key), older.revision, newer.revision)
		}
		return
	}
	created := newer.create == newer.revision && newer.version == 1
	followed := newer.create == older.create && newer.version == older.version+1
	if older.deleted() && !created || !older.deleted() && !followed {
		c.found("key %q: version %d (revision %d) does not follow version %d (revision %d)",
			userKey(key), newer.version, newer.revision, older.version, older.revision)
	}
}

// newest checks what must be true of the version that is current.
func (c *checker) newest(key []byte, ver *version) {
	if ver.deleted() || ver.lease == 0 {
		return
	}
	if c.tx.Bucket(bucketLeases).Get(leaseID(ver.lease)) == nil {
		c.found("key %q has lease %d, which does not exist", userKey(key), ver.lease)
	}
	if c.tx.Bucket(bucketLeaseKeys).Get(append(leaseID(ver.lease), keyPrefix(key)...)) == nil {
		c.found("key %q is not among the keys of its lease %d", userKey(key), ver.lease)
	}
}

// history walks the log and computes the running hash again.
func (c *checker) history() {
	kv := c.tx.Bucket(bucketKV)
	digest := xxhash.New()
	var last, want int64
	var lastHash uint64
	started := false
	finish := func() {
		if started && last > want && digest.Sum64() != lastHash {
			c.found("the running hash of revision %d does not follow from its changes", last)
		}
	}
	want = max(c.st.Compacted, firstRevision)
	cursor := c.tx.Bucket(bucketLog).Cursor()
	for key, record := cursor.First(); key != nil && c.ctx.Err() == nil; key, record = cursor.Next() {
		hash, changes, err := readLogRecord(key, record)
		if err != nil {
			c.found("%v", err)
			continue
		}
		revision, _, _ := readLogKey(key)
		if revision > c.st.Revision {
			break
		}
		if revision < want {
			continue // Not yet cleaned up after a compaction.
		}
		if revision != last {
			finish()
			if started && revision != last+1 {
				c.found("the log has no revision between %d and %d", last, revision)
			}
			digest.ResetWithSeed(lastHash)
			started, last, lastHash = true, revision, hash
		}
		for _, change := range changes {
			record := kv.Get(change.versionKey)
			if record == nil && revision > want {
				c.found("the log has key %q at revision %d, kv does not", userKey(change.versionKey), revision)
			}
			_, _ = digest.Write(change.versionKey) // Never fails.
			_, _ = digest.Write(record)
		}
	}
	finish()
	if c.st.Revision > firstRevision && (last != c.st.Revision || lastHash != c.st.Hash) {
		c.found("the log ends at revision %d with hash %016x, the state says %d and %016x", last, lastHash, c.st.Revision, c.st.Hash)
	}
}

func (c *checker) leases() {
	if _, err := loadLeases(c.tx); err != nil {
		c.found("%v", err)
	}
	cursor := c.tx.Bucket(bucketLeaseKeys).Cursor()
	for key, record := cursor.First(); key != nil && c.ctx.Err() == nil; key, record = cursor.Next() {
		if _, err := unseal(key, record); err != nil {
			c.found("%v", err)
		}
		if len(key) < 8 || c.tx.Bucket(bucketLeases).Get(key[:8]) == nil {
			c.found("lease key %.64x belongs to no lease", key)
		}
	}
}

func (c *checker) requests() {
	bucket := c.tx.Bucket(bucketRequests)
	oldest, orders, records := c.st.Requests.oldest(), 0, 0
	cursor := bucket.Cursor()
	for key, record := cursor.First(); key != nil && c.ctx.Err() == nil; key, record = cursor.Next() {
		if err := c.request(bucket, key, record, oldest, &orders, &records); err != nil {
			c.found("%v", err)
		}
	}
	if c.ctx.Err() == nil && orders != records {
		c.found("%d requests are remembered, %d have a place in the order", records, orders)
	}
}

func (c *checker) request(bucket *bbolt.Bucket, key, record []byte, oldest uint64, orders, records *int) error {
	if len(key) == 8 {
		named, err := unseal(key, record)
		if err != nil {
			return err
		}
		number := binary.BigEndian.Uint64(key)
		if number >= c.st.Requests.Next {
			return nil
		}
		*orders++
		if number < oldest || bucket.Get(named) == nil {
			return fmt.Errorf("%w: request number %d is not remembered (the oldest is %d)", ErrCorrupt, number, oldest)
		}
		return nil
	}
	r, err := readRequest(key, record)
	if err != nil || r.number >= c.st.Requests.Next {
		return err
	}
	*records++
	_, err = decodeResult(r.result)
	return err
}
