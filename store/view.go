package store

import (
	"bytes"
	"fmt"
	"runtime/debug"

	"go.etcd.io/bbolt"
)

// view is what one read sees: every version up to a revision. Versions above
// it, which tables may get meanwhile, are skipped. For one goroutine.
type view struct {
	revision int64
	reading  int64    // The oldest revision that will be read; at first the newest.
	tables   []*table // From the newest on.
	base     int64    // The tables hold all versions above it.
	store    *Store
	tx       *bbolt.Tx // Begun when first needed.
	cursor   *bbolt.Cursor
	target   []byte
	faults   bool // What a fault did in this goroutine before; see guard.
}

// view takes a view of the newest revision; the caller must close it.
//
// The order matters: first the revision, then the tables, then (in disk) the
// transaction. A flush that ends in between leaves versions in both places,
// never in none.
func (s *Store) view() (*view, error) {
	s.swap.RLock()
	if s.closed {
		s.swap.RUnlock()
		return nil, ErrClosed
	}
	revision := s.revision.Load()
	tables := s.tables.Load().all()
	return &view{
		revision: revision, reading: revision, tables: tables, base: tables[len(tables)-1].base, store: s,
		faults: debug.SetPanicOnFault(true),
	}, nil
}

func (v *view) close() {
	v.release()
	debug.SetPanicOnFault(v.faults)
	v.store.swap.RUnlock()
}

// release ends the bbolt transaction.
func (v *view) release() {
	if v.tx != nil {
		_ = v.tx.Rollback() // Of a read transaction: cannot fail.
		v.tx, v.cursor = nil, nil
	}
}

func (v *view) disk() (*bbolt.Cursor, error) {
	if v.cursor != nil {
		return v.cursor, nil
	}
	tx, err := v.store.db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("store: read: %w", err)
	}
	v.tx = tx // Before anything can panic: close must find it.
	v.cursor = tx.Bucket(bucketKV).Cursor()
	// Only now: a scrub that begins later does not change this transaction.
	if oldest := v.store.scrubbing.Load(); v.reading < oldest {
		return nil, errCompacted(v.reading, oldest)
	}
	return v.cursor, nil
}

// at chooses the revision to read at; 0 is the newest.
func (v *view) at(revision int64) error {
	if revision == 0 {
		return nil
	}
	if oldest := v.store.compacted.Load(); revision < oldest {
		return errCompacted(revision, oldest)
	}
	if revision > v.revision {
		return errFuture(revision, v.revision)
	}
	v.reading = revision
	return nil
}

// get finds the version of a key (given as its keyPrefix) that was valid at a
// revision. It is not found when the key did not exist then.
func (v *view) get(prefix []byte, revision int64) (version, bool, error) {
	v.target = appendRevision(append(v.target[:0], prefix...), revision)
	for _, t := range v.tables {
		if n := t.kv.find(v.target, nil); n != nil && bytes.HasPrefix(n.key, prefix) {
			return readExisting(n.key, n.value)
		}
	}
	return v.getDisk(prefix)
}

// getDisk looks for v.target on disk only. There may be versions above the
// view's base there, of a flush that is under way or that a crash has ended:
// they do not count, not even when they are written for the second time.
func (v *view) getDisk(prefix []byte) (version, bool, error) {
	cursor, err := v.disk()
	if err != nil {
		return version{}, false, err
	}
	if keyRevision(v.target) > v.base {
		v.target = appendRevision(append(v.target[:0], prefix...), v.base)
	}
	key, record := cursor.Seek(v.target)
	if !bytes.HasPrefix(key, prefix) || len(key) != len(prefix)+revisionBytes {
		return version{}, false, nil
	}
	return readExisting(key, record)
}

// visitor is called with a key (as versionKey) and its version, and says
// whether to go on. Both are valid only during the call.
type visitor func(versionKey []byte, ver *version) (more bool, err error)

// ascend visits the keys of a span that existed at a revision, in order.
func (v *view) ascend(s span, revision int64, visit visitor) error {
	if s.single {
		ver, found, err := v.get(s.start, revision)
		if err != nil || !found {
			return err
		}
		_, err = visit(v.target, &ver)
		return err
	}
	m, err := v.merge()
	if err != nil {
		return err
	}
	m.seek(s.start)
	for {
		key, record := m.least()
		if key == nil || !s.before(key) {
			return nil
		}
		if len(key) < suffixBytes {
			return corrupt("kv key %.64x", key)
		}
		prefix := keyPrefix(key)
		if keyRevision(key) > revision {
			m.seek(appendRevision(bytes.Clone(prefix), revision))
			continue
		}
		ver, err := readVersion(key, record)
		if err != nil {
			return err
		}
		if !ver.deleted() {
			if more, err := visit(key, &ver); err != nil || !more {
				return err
			}
		}
		m.skip(prefix)
	}
}

// descend is ascend from the last key down.
func (v *view) descend(s span, revision int64, visit visitor) error {
	if s.single {
		return v.ascend(s, revision, visit)
	}
	m, err := v.merge()
	if err != nil {
		return err
	}
	bound := s.end
	for {
		key := m.last(bound)
		if key == nil || bytes.Compare(key, s.start) < 0 {
			return nil
		}
		if len(key) < suffixBytes {
			return corrupt("kv key %.64x", key)
		}
		bound = bytes.Clone(keyPrefix(key))
		ver, found, err := v.get(bound, revision)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		if more, err := visit(appendRevision(bytes.Clone(bound), ver.revision), &ver); err != nil || !more {
			return err
		}
	}
}

// merge walks the tables and the disk as one sorted list.
type merge struct {
	sources []source
	at      []byte
}

// source is one sorted list of kv records. key is nil at the end.
type source interface {
	seek(key []byte)
	next()
	entry() (key, record []byte)
	// last gives the last key before bound (nil: of all) and loses the place.
	last(bound []byte) []byte
}

func (v *view) merge() (*merge, error) {
	if _, err := v.disk(); err != nil {
		return nil, err
	}
	m := &merge{}
	for _, t := range v.tables {
		m.sources = append(m.sources, &tableSource{list: t.kv})
	}
	// A cursor of its own: get moves the view's.
	m.sources = append(m.sources, &diskSource{cursor: v.tx.Bucket(bucketKV).Cursor(), base: v.base})
	return m, nil
}

func (m *merge) seek(key []byte) {
	for _, s := range m.sources {
		s.seek(key)
	}
}

func (m *merge) least() (key, record []byte) {
	for _, s := range m.sources {
		if k, r := s.entry(); k != nil && (key == nil || bytes.Compare(k, key) < 0) {
			key, record = k, r
		}
	}
	return key, record
}

// skipSteps is how many versions are stepped over one by one before a seek is
// the cheaper way past them.
const skipSteps = 4

// skip goes past every version of a key.
func (m *merge) skip(prefix []byte) {
	m.at = append(m.at[:0], prefix...)
	for _, s := range m.sources {
		for steps := 0; ; steps++ {
			if k, _ := s.entry(); !bytes.HasPrefix(k, m.at) {
				break
			}
			if steps == skipSteps {
				// The byte after the terminator: behind all versions, before any other key.
				m.at[len(m.at)-1]++
				s.seek(m.at)
				m.at[len(m.at)-1]--
				break
			}
			s.next()
		}
	}
}

func (m *merge) last(bound []byte) (key []byte) {
	for _, s := range m.sources {
		if k := s.last(bound); k != nil && bytes.Compare(k, key) > 0 {
			key = k
		}
	}
	return key
}

type tableSource struct {
	list *skiplist
	at   *node
}

func (t *tableSource) seek(key []byte) { t.at = t.list.find(key, nil) }
func (t *tableSource) next()           { t.at = t.at.next() }

func (t *tableSource) entry() (key, record []byte) {
	if t.at == nil {
		return nil, nil
	}
	return t.at.key, t.at.value
}

func (t *tableSource) last(bound []byte) []byte {
	if n := t.list.last(bound); n != nil {
		return n.key
	}
	return nil
}

// diskSource leaves out versions above the base, as getDisk does. Over damaged
// pages bbolt may go back, and a walk never end: that panics here, see guard.
type diskSource struct {
	cursor      *bbolt.Cursor
	base        int64
	key, record []byte
}

func (d *diskSource) seek(key []byte) {
	d.key, d.record = d.cursor.Seek(key)
	if d.key != nil && bytes.Compare(d.key, key) < 0 {
		panic(fmt.Sprintf("the search for %.64x ends at %.64x", key, d.key))
	}
	d.settle()
}

func (d *diskSource) next() {
	d.step()
	d.settle()
}

func (d *diskSource) step() {
	before := d.key
	d.key, d.record = d.cursor.Next()
	if d.key != nil && bytes.Compare(d.key, before) <= 0 {
		panic(fmt.Sprintf("key %.64x comes after %.64x", d.key, before))
	}
}

func (d *diskSource) settle() {
	for len(d.key) >= suffixBytes && keyRevision(d.key) > d.base {
		d.step()
	}
}

func (d *diskSource) entry() (key, record []byte) { return d.key, d.record }

func (d *diskSource) last(bound []byte) []byte {
	if bound == nil {
		key, _ := d.cursor.Last()
		return key
	}
	if key, _ := d.cursor.Seek(bound); key == nil {
		key, _ = d.cursor.Last()
		return key
	}
	key, _ := d.cursor.Prev()
	if bytes.Compare(key, bound) >= 0 {
		panic(fmt.Sprintf("key %.64x comes before %.64x", key, bound))
	}
	return key
}
