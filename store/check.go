package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/bbolt"

	"github.com/batondb/baton/internal/access"
)

// Check flushes, and verifies every invariant of the file: bbolt's own; the
// checksum of every record; that the versions of a key follow each other and none
// is left over; that the running hash follows from them; that leases and their
// keys agree; and that requests and their order agree. It reads everything. It
// fails with ErrCorrupt and all that it found.
func (s *Store) Check(ctx context.Context) (err error) {
	if err := s.Flush(ctx, s.Applied()); err != nil {
		return err
	}
	s.database.swap.RLock()
	defer s.database.swap.RUnlock()
	if s.database.closed {
		return ErrClosed
	}
	defer s.guard(&err)
	if err := s.checkPages(); err != nil {
		return err
	}
	return careful(func() error {
		return s.database.db.View(func(tx *bbolt.Tx) error { return checkRecords(ctx, tx) })
	})
}

// checkPages holds up the flush: it checks pages against the free list, which only
// the newest transaction has.
func (s *Store) checkPages() error {
	writer, err := s.database.db.Begin(true)
	if err != nil {
		return fmt.Errorf("store: check: %w", err)
	}
	err = careful(func() error { return s.database.db.View(checkPages) })
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
	scrubbed place
	findings []error
	reached  int // Versions that were found by going back from the index.
	allowed  *access.State
	usages   map[string]*Usage // What there is of each tenant.
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
	c := &checker{ctx: ctx, tx: tx, st: st, scrubbed: scrubbed, usages: map[string]*Usage{}}
	if c.allowed, err = loadAccess(tx, &st); err != nil {
		c.found("%v", err)
	}
	for _, pass := range []func(){c.index, c.history, c.leases, c.requests, c.tenants} {
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

// index walks the keys, and the versions of each.
func (c *checker) index() {
	f := newFile(c.ctx, c.tx)
	cursor := f.keys.Cursor()
	for key, record := cursor.First(); key != nil && c.ctx.Err() == nil; key, record = cursor.Next() {
		if err := c.key(f, key, record); err != nil {
			c.found("%v", err)
		}
	}
}

func (c *checker) key(f *file, key, record []byte) error {
	indexed, err := readIndexRecord(key, record)
	if err != nil {
		return err
	}
	at, err := f.logged(key, indexed.place)
	if err != nil {
		return err
	}
	if size, known := indexed.valueSize(); known && at.exists() && size != int64(len(at.value)) {
		c.found("key %q: the index has %d bytes for its value of revision %d, which has %d", key, size, at.place.revision, len(at.value))
	}
	if at.version != indexed.version || at.create != indexed.create || at.lease != indexed.lease {
		c.found("key %q: the index does not agree with the log on revision %d", key, at.place.revision)
	}
	for at.place.revision > c.st.Revision {
		if at.prev.revision == 0 || at.prevDeleted && at.prev.compare(c.scrubbed) < 0 {
			return nil // Of a flush that did not end: the key is not there yet.
		}
		if at, err = f.logged(key, at.prev); err != nil {
			return err
		}
	}
	c.newest(key, &at)
	return c.versions(f, key, at)
}

// versions goes back from a key's newest version.
func (c *checker) versions(f *file, key []byte, at version) error {
	scrubbed := c.scrubbed.revision >= c.st.Compacted
	for {
		c.reached++
		if scrubbed && !at.exists() && at.place.revision < c.st.Compacted {
			c.found("key %q has a deletion at revision %d, which the compaction to %d should have removed", key, at.place.revision, c.st.Compacted)
		}
		if at.prev.revision == 0 {
			if !at.exists() || at.version != 1 || at.create != at.place.revision {
				c.found("key %q: version %d (revision %d) follows none", key, at.version, at.place.revision)
			}
			return nil
		}
		if at.place.revision <= c.st.Compacted || at.prevDeleted && at.prev.revision < c.st.Compacted {
			return c.compacted(f, key, &at, scrubbed)
		}
		older, err := f.logged(key, at.prev)
		if err != nil {
			return err
		}
		c.succession(key, &at, &older)
		at = older
	}
}

// compacted looks at what a version has replaced, which no revision can read
// any more: the scrub removes it, as far as it has come.
func (c *checker) compacted(f *file, key []byte, at *version, scrubbed bool) error {
	for at.prev.revision > 0 && f.log.Get(at.prev.logKey()) != nil {
		older, err := f.logged(key, at.prev)
		if err != nil {
			return err
		}
		if scrubbed {
			c.found("key %q has version %d (revision %d), which the compaction to %d should have removed", key, older.version, older.place.revision, c.st.Compacted)
		}
		c.reached++
		at = &older
	}
	return nil
}

func (c *checker) succession(key []byte, newer, older *version) {
	if older.exists() == newer.prevDeleted {
		c.found("key %q: revision %d is wrong on whether revision %d is a deletion", key, newer.place.revision, older.place.revision)
	}
	if !newer.exists() {
		if !older.exists() {
			c.found("key %q was deleted twice, at %d and %d", key, older.place.revision, newer.place.revision)
		}
		return
	}
	created := newer.create == newer.place.revision && newer.version == 1
	followed := newer.create == older.create && newer.version == older.version+1
	if !older.exists() && !created || older.exists() && !followed {
		c.found("key %q: version %d (revision %d) does not follow version %d (revision %d)",
			key, newer.version, newer.place.revision, older.version, older.place.revision)
	}
}

// newest checks what must be true of the version that is current.
func (c *checker) newest(key []byte, ver *version) {
	c.count(key, ver)
	if !ver.exists() || ver.lease == 0 {
		return
	}
	if c.tx.Bucket(bucketLeases).Get(leaseID(ver.lease)) == nil {
		c.found("key %q has lease %d, which does not exist", key, ver.lease)
	}
	if c.tx.Bucket(bucketLeaseKeys).Get(append(leaseID(ver.lease), key...)) == nil {
		c.found("key %q is not among the keys of its lease %d", key, ver.lease)
	}
}

// history walks the log: no revision that is kept is missing, the running hash
// follows, and the index has led to every version.
func (c *checker) history() {
	h := &historyCheck{checker: c, digest: xxhash.New(), first: max(c.st.Compacted, firstRevision)}
	versions := 0
	cursor := c.tx.Bucket(bucketLog).Cursor()
	for key, record := cursor.First(); key != nil && c.ctx.Err() == nil; key, record = cursor.Next() {
		at, err := readLogKey(key)
		if err != nil {
			c.found("%v", err)
			continue
		}
		if at.revision > c.st.Revision {
			break
		}
		named, _, err := readLogRecord(at, record)
		if err != nil {
			c.found("%v", err)
			continue
		}
		if named != nil {
			versions++
		}
		if at.revision >= h.first {
			h.next(at, record)
		}
	}
	h.finish()
	if c.ctx.Err() == nil && versions != c.reached {
		c.found("the log has %d versions, %d can be found by their keys", versions, c.reached)
	}
	if c.st.Revision > firstRevision && (h.at.revision != c.st.Revision || h.hash != c.st.Hash) {
		c.found("the log ends at revision %d with hash %016x, the state says %d and %016x", h.at.revision, h.hash, c.st.Revision, c.st.Hash)
	}
}

// historyCheck computes the running hash again.
type historyCheck struct {
	checker *checker
	digest  *xxhash.Digest
	first   int64
	at      place
	hash    uint64
}

func (h *historyCheck) next(at place, record []byte) {
	if at.revision != h.at.revision {
		h.finish()
		if h.at.revision != 0 && at.revision != h.at.revision+1 {
			h.checker.found("the log has no revision between %d and %d", h.at.revision, at.revision)
		}
		h.digest.ResetWithSeed(h.hash)
		h.hash = recordHash(record)
		h.at = place{revision: at.revision}
	} else {
		h.at.part++
	}
	if at.part != h.at.part {
		h.checker.found("revision %d has no change %d", at.revision, h.at.part)
	}
	h.at = at
	_, _ = h.digest.Write(record[bodyAt:]) // Never fails.
}

// finish compares at the end of a revision. What the first one followed is not
// known any more.
func (h *historyCheck) finish() {
	if h.at.revision > h.first && h.digest.Sum64() != h.hash {
		h.checker.found("the running hash of revision %d does not follow from its changes", h.at.revision)
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

// count counts a key for its tenant, anew.
func (c *checker) count(key []byte, ver *version) {
	tenant := c.allowed.TenantAt(key)
	if tenant == nil || !ver.exists() {
		return
	}
	stored, used := c.st.Tenants[tenant.GetName()], c.usages[tenant.GetName()]
	if used == nil {
		used = &Usage{}
		c.usages[tenant.GetName()] = used
	}
	if stored.counts(key) {
		used.Keys, used.Bytes = used.Keys+1, used.Bytes+int64(len(key)+len(ver.value))
	}
}

func (c *checker) tenants() {
	for name, stored := range c.st.Tenants {
		used := c.usages[name]
		if used == nil {
			used = &Usage{}
		}
		if used.Keys != stored.Keys || used.Bytes != stored.Bytes {
			c.found("the tenant %q has %d keys and %d bytes, the state says %d and %d", name, used.Keys, used.Bytes, stored.Keys, stored.Bytes)
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
