package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/bbolt"
)

// Round verifies the whole file once, in steps: bbolt's pages and what they say of each
// other, the checksum of each record, that index and log agree, that versions follow
// each other, and that the running hash follows from what was written since the last
// compaction. What it finds is damage, as a read's. What it cannot see is an older
// version that was edited together with its checksum: see Store.Part. For one goroutine.
type Round struct {
	store   *Store
	until   state // What is written after it is for the next round.
	at      position
	history historyCheck
}

// NewRound begins a round over what is in the file. It need not be ended.
func (s *Store) NewRound() *Round {
	return &Round{
		store: s, until: s.flusher.durableState(),
		history: historyCheck{checker: &checker{}, digest: xxhash.New(), first: firstRevision},
	}
}

// metaTries is how often a step begins again because the file has been written twice
// between two of its reads.
const metaTries = 16

// ErrBusy is returned by Round.Step when the file is written too fast to be read now. The next
// step may go on.
var ErrBusy = errors.New("store: the file is written too fast to be verified now")

// Step looks at about as many bytes of records, in one short transaction. It returns the
// bytes of pages that it read, and whether there is more.
func (r *Round) Step(ctx context.Context, bytes int) (read int, more bool, err error) {
	s := r.store
	s.database.swap.RLock()
	defer s.database.swap.RUnlock()
	if s.database.closed {
		return 0, false, ErrClosed
	}
	defer s.guard(&err)
	for range metaTries {
		read, more, err = r.step(ctx, bytes)
		if !errors.Is(err, errNoMeta) {
			return read, more, err
		}
	}
	return 0, true, ErrBusy
}

func (r *Round) step(ctx context.Context, size int) (read int, more bool, err error) {
	durable := r.store.flusher.durableState()
	w := &walk{at: r.at, left: size}
	err = careful(func() error {
		return r.store.database.db.View(func(tx *bbolt.Tx) error {
			st, _, err := loadState(tx)
			if err != nil {
				return err
			}
			if err := goesOn(durable, st); err != nil {
				return err
			}
			c := &roundStep{ctx: ctx, tx: tx, st: st, until: &r.until, file: newFile(ctx, tx), history: &r.history}
			c.begin()
			w.visit = c.visit
			err = checkTree(tx, &pageChecker{walk: w})
			if more = errors.Is(err, errWalkEnd); err != nil && !more {
				return err
			}
			if bytes.Compare(r.at.bucket, bucketLog) <= 0 && (!more || bytes.Compare(w.at.bucket, bucketLog) > 0) {
				return c.endLog()
			}
			return nil
		})
	})
	if err == nil {
		r.at = w.at
	}
	return w.read, more, err
}

// goesOn compares the file's state with what it was, or will be: another transaction may
// have changed it since, or have committed and not said so yet.
func goesOn(before, st state) error {
	before.Format, before.Tenants = st.Format, st.Tenants // See raiseFormat; after the start it has no tenants.
	switch {
	case st.Index < before.Index:
		return corrupt("the file has gone back from entry %d to entry %d", before.Index, st.Index)
	case st.Index == before.Index && !bytes.Equal(st.encode(), before.encode()):
		return corrupt("the state of the file after entry %d is not what was written", st.Index)
	}
	return nil
}

// roundStep is one transaction's part of a round. What it says names no keys.
type roundStep struct {
	ctx     context.Context
	tx      *bbolt.Tx
	st      state
	until   *state
	file    *file
	history *historyCheck
	visited int
}

// begin leaves out of the running hash what a compaction has made incomplete meanwhile.
func (c *roundStep) begin() {
	h := c.history
	if c.st.Compacted > h.first {
		h.first = c.st.Compacted
		if h.at.revision < h.first {
			h.at, h.hash = place{}, 0
		}
	}
}

func (c *roundStep) visit(bucket, key, record []byte) error {
	if c.visited++; c.visited%cancelEvery == 0 && c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	switch {
	case bytes.Equal(bucket, bucketLog):
		return c.logged(key, record)
	case bytes.Equal(bucket, bucketKeys):
		return c.indexed(key, record)
	}
	if _, err := unseal(key, record); err != nil {
		return corrupt("a record of the bucket %q", bucket)
	}
	switch {
	case bytes.Equal(bucket, bucketLeaseKeys):
		if len(key) < leaseIDBytes || c.tx.Bucket(bucketLeases).Get(key[:leaseIDBytes]) == nil {
			return corrupt("a key is attached to no lease")
		}
	case bytes.Equal(bucket, bucketRequests):
		return c.request(key, record)
	case bytes.Equal(bucket, bucketMeta):
		_, err := loadAccess(c.tx, &c.st)
		return err
	}
	return nil
}

// indexed looks for the deletion that the index has as a key's newest version. Any other
// version is read as part of a Part.
func (c *roundStep) indexed(key, record []byte) error {
	newest, err := readIndexRecord(key, record)
	switch {
	case err != nil:
		return corrupt("an index record")
	case newest.exists():
		return nil
	}
	if ver, err := c.file.logged(key, newest.place); err != nil || ver.exists() {
		return corrupt("an index record says of a key that revision %d, change %d deleted it", newest.place.revision, newest.place.part)
	}
	return nil
}

func (c *roundStep) request(key, record []byte) error {
	if len(key) != 8 {
		r, err := readRequest(key, record)
		if err != nil {
			return err
		}
		_, err = decodeResult(r.result)
		return err
	}
	number := binary.BigEndian.Uint64(key)
	if number >= c.st.Requests.oldest() && number < c.st.Requests.Next && c.tx.Bucket(bucketRequests).Get(record[checksumBytes:]) == nil {
		return corrupt("request number %d is not remembered", number)
	}
	return nil
}

// logged looks at a version, and at what the index says of its key: the index has a
// newest version of every key that the log has, this one or a later one.
func (c *roundStep) logged(key, record []byte) error {
	at, err := readLogKey(key)
	if err != nil {
		return err
	}
	if at.revision > c.until.Revision {
		return errBucketEnd
	}
	named, ver, err := readLogRecord(at, record)
	if err != nil {
		return corrupt("the log record of revision %d, change %d", at.revision, at.part)
	}
	if at.revision >= c.history.first {
		c.history.next(at, record)
		if err := errors.Join(c.history.checker.findings...); err != nil {
			return err
		}
	}
	if named == nil {
		return nil
	}
	index := find(c.file.inKeys, named)
	if index == nil {
		return corrupt("the index does not have the key of revision %d, change %d", at.revision, at.part)
	}
	newest, err := readIndexRecord(named, index)
	if err != nil || newest.place.compare(at) < 0 {
		return corrupt("the index record of the key of revision %d, change %d", at.revision, at.part)
	}
	if newest.place == at {
		if err := c.newest(named, &ver, &newest); err != nil {
			return err
		}
	}
	if at.revision > c.st.Compacted {
		return c.replaced(named, &ver)
	}
	return nil
}

// newest looks at what else there is about a key's newest version.
func (c *roundStep) newest(key []byte, ver, index *version) error {
	size, sized := index.valueSize()
	if ver.version != index.version || ver.create != index.create || ver.lease != index.lease ||
		sized && ver.exists() && size != int64(len(ver.value)) {
		return corrupt("the index does not agree with the log on revision %d, change %d", ver.place.revision, ver.place.part)
	}
	if ver.exists() && ver.lease != 0 && c.tx.Bucket(bucketLeaseKeys).Get(append(leaseID(ver.lease), key...)) == nil {
		return corrupt("the key of revision %d, change %d is missing among those of its lease", ver.place.revision, ver.place.part)
	}
	return nil
}

// replaced looks at the version that a version names as the one before, which the
// running hash does not cover.
func (c *roundStep) replaced(key []byte, ver *version) error {
	wrong := func() error {
		return corrupt("revision %d, change %d does not follow from the version before", ver.place.revision, ver.place.part)
	}
	first := ver.version == 1 && ver.create == ver.place.revision
	if ver.prev.revision == 0 {
		if !first {
			return wrong()
		}
		return nil
	}
	record := find(c.file.inLog, ver.prev.appendLogKey(c.file.logKey[:0]))
	if record == nil {
		if ver.prevDeleted && ver.prev.revision < c.st.Compacted && first {
			return nil // The compaction has removed it.
		}
		return wrong()
	}
	named, older, err := readLogRecord(ver.prev, record)
	switch {
	case err != nil, !bytes.Equal(named, key), older.exists() == ver.prevDeleted:
	case !ver.exists() && older.exists(), ver.exists() && !older.exists() && first:
		return nil
	case older.exists() && ver.version == older.version+1 && ver.create == older.create:
		return nil
	}
	return wrong()
}

// endLog is called when all of the log was seen up to the end of the round.
func (c *roundStep) endLog() error {
	h := c.history
	h.finish()
	if c.until.Revision > firstRevision && c.until.Revision >= h.first && (h.at.revision != c.until.Revision || h.hash != c.until.Hash) {
		h.checker.found("the log ends at revision %d with hash %016x, the state said %d and %016x", h.at.revision, h.hash, c.until.Revision, c.until.Hash)
	}
	return errors.Join(h.checker.findings...)
}
