package store

import (
	"bytes"
	"context"
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
	file     *file
	ctx      context.Context // Of a read; one of Apply has no end.
	faults   bool            // What a fault did in this goroutine before; see guard.
	// steps counts the keys that were walked over, also those that did not exist then;
	// with most above 0 there may be no more than that.
	steps, most int
}

// step counts one key.
func (v *view) step() error {
	if v.steps++; v.most > 0 && v.steps > v.most {
		return errTooManyKeys
	}
	return nil
}

// view takes a view of the newest revision, for as long as ctx; the caller must
// close it.
//
// The order matters: first the revision, then the tables, then (in disk) the
// transaction. A flush that ends in between leaves versions in both places,
// never in none.
func (s *Store) view(ctx context.Context) (*view, error) {
	s.database.swap.RLock()
	if s.database.closed {
		s.database.swap.RUnlock()
		return nil, ErrClosed
	}
	revision := s.visible.revision.Load()
	tables := s.tables.Load().all()
	return &view{
		revision: revision, reading: revision, tables: tables, base: tables[len(tables)-1].base, store: s, ctx: ctx,
		faults: debug.SetPanicOnFault(true),
	}, nil
}

func (v *view) close() {
	v.release()
	debug.SetPanicOnFault(v.faults)
	v.store.database.swap.RUnlock()
}

// release ends the bbolt transaction.
func (v *view) release() {
	if v.tx != nil {
		_ = v.tx.Rollback() // Of a read transaction: cannot fail.
		v.tx, v.file = nil, nil
	}
}

func (v *view) disk() (*file, error) {
	if v.file != nil {
		return v.file, nil
	}
	tx, err := v.store.database.db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("store: read: %w", err)
	}
	v.tx = tx // Before anything can panic: close must find it.
	v.file = newFile(v.ctx, tx)
	// Only now: a scrub that begins later does not change this transaction.
	if oldest := v.store.visible.scrubbing.Load(); v.reading < oldest {
		v.release()
		return nil, errCompacted(v.reading, oldest)
	}
	return v.file, nil
}

// at chooses the revision to read at; 0 is the newest.
func (v *view) at(revision int64) error {
	if revision == 0 {
		return nil
	}
	if oldest := v.store.visible.compacted.Load(); revision < oldest {
		return errCompacted(revision, oldest)
	}
	if revision > v.revision {
		return errFuture(revision, v.revision)
	}
	v.reading = revision
	return nil
}

// get finds the version of a key that was valid at a revision, without its
// value: see complete. It is not found when the key did not exist then.
func (v *view) get(key []byte, revision int64) (version, bool, error) {
	for _, t := range v.tables {
		n := t.sorted().get(key)
		if n == nil {
			continue
		}
		if found := n.at(revision); found != nil {
			ver, err := found.read()
			return ver, ver.exists(), err
		}
	}
	ver, err := v.onDisk(key, revision)
	return ver, ver.exists(), err
}

// onDisk looks for a version on disk only; the zero version is none. There may
// be versions above the view's base there, of a flush that is under way or that
// a crash has ended: they do not count, not even when they are written for the
// second time.
func (v *view) onDisk(key []byte, revision int64) (version, error) {
	f, err := v.disk()
	if err != nil {
		return version{}, err
	}
	return f.get(key, min(revision, v.base))
}

// complete reads what an index record does not have.
func (v *view) complete(key []byte, ver *version) error {
	if ver.whole {
		return nil
	}
	f, err := v.disk()
	if err != nil {
		return err
	}
	*ver, err = f.logged(key, ver.place)
	return err
}

// logged reads the version of a key at a place, wherever it is.
func (v *view) logged(key []byte, at place) (version, error) {
	for _, t := range v.tables {
		if found := t.logged(at); found != nil {
			return found.read()
		}
	}
	f, err := v.disk()
	if err != nil {
		return version{}, err
	}
	return f.logged(key, at)
}

// visitor is called with a key and its version, which may have to be completed,
// and says whether to go on. Both are valid only during the call.
type visitor func(key []byte, ver *version) (more bool, err error)

// ascend visits the keys of a span that existed at a revision, in order.
func (v *view) ascend(s span, revision int64, visit visitor) error {
	if s.single {
		return v.visitOne(s.start, revision, visit)
	}
	m, err := v.merge()
	if err != nil {
		return err
	}
	m.seek(s.start)
	for {
		key := m.least()
		if key == nil || !s.before(key) {
			return nil
		}
		if err := v.step(); err != nil {
			return err
		}
		ver, err := m.version(key, revision)
		if err != nil {
			return err
		}
		if ver.exists() {
			if more, err := visit(key, &ver); err != nil || !more {
				return err
			}
		}
		m.skip(key)
	}
}

func (v *view) visitOne(key []byte, revision int64, visit visitor) error {
	ver, found, err := v.get(key, revision)
	if err == nil && found {
		_, err = visit(key, &ver)
	}
	return err
}

// descend is ascend from the last key down.
func (v *view) descend(s span, revision int64, visit visitor) error {
	if s.single {
		return v.visitOne(s.start, revision, visit)
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
		if err := v.step(); err != nil {
			return err
		}
		ver, found, err := v.get(key, revision)
		if err != nil {
			return err
		}
		if found {
			if more, err := visit(key, &ver); err != nil || !more {
				return err
			}
		}
		bound = key
	}
}

// merge walks the tables and the disk as one sorted list of keys.
type merge struct {
	sources []source // From the newest on.
}

// source is one sorted list of keys.
type source interface {
	seek(key []byte)
	next()
	// key is nil at the end.
	key() []byte
	// version gives the version of the current key that was valid at a revision; the
	// zero version: the source has none that old.
	version(revision int64) (version, error)
	// last gives the last key before bound (nil: of all) and loses the place.
	last(bound []byte) []byte
}

func (v *view) merge() (*merge, error) {
	f, err := v.disk()
	if err != nil {
		return nil, err
	}
	m := &merge{}
	for _, t := range v.tables {
		m.sources = append(m.sources, &tableSource{list: t.sorted()})
	}
	m.sources = append(m.sources, &fileSource{file: f, cursor: f.keys.Cursor(), base: v.base})
	return m, nil
}

func (m *merge) seek(key []byte) {
	for _, s := range m.sources {
		s.seek(key)
	}
}

func (m *merge) least() (key []byte) {
	for _, s := range m.sources {
		if k := s.key(); k != nil && (key == nil || bytes.Compare(k, key) < 0) {
			key = k
		}
	}
	return key
}

func (m *merge) version(key []byte, revision int64) (version, error) {
	for _, s := range m.sources {
		if !bytes.Equal(s.key(), key) {
			continue
		}
		if ver, err := s.version(revision); err != nil || ver.place.revision != 0 {
			return ver, err
		}
	}
	return version{}, nil
}

// skip goes past a key.
func (m *merge) skip(key []byte) {
	for _, s := range m.sources {
		if bytes.Equal(s.key(), key) {
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

func (t *tableSource) seek(key []byte) { t.at = t.list.find(key) }
func (t *tableSource) next()           { t.at = t.at.next() }

func (t *tableSource) key() []byte {
	if t.at == nil {
		return nil
	}
	return t.at.key
}

func (t *tableSource) version(revision int64) (version, error) {
	if v := t.at.at(revision); v != nil {
		return v.read()
	}
	return version{}, nil
}

func (t *tableSource) last(bound []byte) []byte {
	if n := t.list.last(bound); n != nil {
		return n.key
	}
	return nil
}
