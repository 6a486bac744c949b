package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// A part that this pod chooses ends after so many bytes, or versions, or keys that do not
// exist any more. The tests of this package make them small.
var (
	partBytes    = 256 << 10
	partVersions = 1024
	partSteps    = 4096
)

// Part hashes what can be read in a part, of which only the bounds are given, now; where
// it has no end, it gets one soon. The hash is the same on every pod, whatever was
// flushed or removed there. Pods that compare it find what no checksum tells, and the
// running hash does not: that covers what was applied, not what is read. A history begins
// with the oldest change that is kept at the earliest. With a number of versions it has as
// many at most.
func (s *Store) Part(ctx context.Context, bounds replication.Part) (p replication.Part, more bool, err error) {
	bounds.Revision = 0
	for {
		h := &partHash{part: bounds, versions: partVersions, bytes: partBytes, steps: partSteps}
		if bounds.Versions > 0 {
			h.versions = min(h.versions, bounds.Versions)
		}
		p, err = h.read(ctx, s)
		if refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_COMPACTED {
			return p, h.cut, err
		} // A compaction overtook it.
	}
}

// PartEnd is where the keys, or the history, end now: whoever reads part by part up to
// there comes to an end, however fast others write.
func (s *Store) PartEnd(ctx context.Context, history bool) (end []byte, err error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	defer s.guard(&err)
	if history {
		return place{revision: v.revision + 1}.logKey(), nil
	}
	m, err := v.merge()
	if err != nil {
		return nil, err
	}
	return append(bytes.Clone(m.last(nil)), 0), nil
}

// PartAgain hashes another pod's part at the same revision, once that is applied here. It
// fails with COMPACTED.
func (s *Store) PartAgain(ctx context.Context, theirs replication.Part) (replication.Part, error) {
	if err := s.WaitRevision(ctx, theirs.Revision); err != nil {
		return replication.Part{}, err
	}
	h := &partHash{part: theirs, versions: theirs.Versions, bytes: theirs.Bytes, again: true}
	return h.read(ctx, s)
}

// partHash reads a part.
type partHash struct {
	part  replication.Part
	sum   hash.Hash
	again bool // The end is given: what goes beyond versions or bytes differs, and is not read.
	cut   bool // It ends because it is full.

	versions, bytes, steps int // Up to where it goes.
	record                 []byte
}

// errPartEnd ends a walk.
var errPartEnd = errors.New("the part ends")

func (h *partHash) read(ctx context.Context, s *Store) (_ replication.Part, err error) {
	v, err := s.view(ctx)
	if err != nil {
		return h.part, err
	}
	defer v.close()
	defer s.guard(&err)
	walk := h.keys
	if h.part.History {
		walk = h.history
	}
	at := int64(0) // Where the last version was.
	h.part.Versions, h.part.Bytes, h.sum = 0, 0, sha256.New()
	err = careful(func() error { return walk(v, func(ver *version) { at = ver.place.revision }) })
	switch {
	case errors.Is(err, errPartEnd):
		err = nil
	case errors.Is(err, ErrCorrupt): // The error, or what panicked, may name a key.
		err = corrupt("what the index or the log has after the version of revision %d", at)
	}
	h.sum.Sum(h.part.Hash[:0])
	return h.part, err
}

// keys reads what each key has, in their order.
func (h *partHash) keys(v *view, seen func(*version)) error {
	if err := v.at(h.part.Revision); err != nil {
		return err
	}
	h.part.Revision = v.reading
	m, err := v.merge()
	if err != nil {
		return err
	}
	m.seek(h.part.From)
	for steps := 1; ; steps++ {
		key := m.least()
		if key == nil || len(h.part.To) > 0 && bytes.Compare(key, h.part.To) >= 0 {
			return nil
		}
		if steps%cancelEvery == 0 && v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		ver, err := m.version(key, v.reading)
		if err != nil {
			return err
		}
		if !h.again && (h.full() || steps > h.steps) {
			h.part.To, h.cut = bytes.Clone(key), true
			return nil
		}
		if ver.exists() {
			if h.full() {
				return h.more()
			}
			index := ver
			if err := v.complete(key, &ver); err != nil {
				return err
			}
			if ver.create != index.create || ver.version != index.version || ver.lease != index.lease {
				return corrupt("the index does not agree with the log")
			}
			h.part.Versions++
			h.add(key, &ver)
		}
		seen(&ver)
		m.skip(key)
	}
}

// history reads changes, in their order, each with the version that it replaced: that one
// may be of before the oldest revision that is kept, where no running hash begins, and be
// no key's newest.
func (h *partHash) history(v *view, seen func(*version)) error {
	oldest := place{revision: max(v.store.visible.compacted.Load(), firstRevision) + 1}.logKey()
	if len(h.part.From) == 0 || !h.again && bytes.Compare(h.part.From, oldest) < 0 {
		h.part.From = oldest
	}
	if h.part.Revision == 0 {
		h.part.Revision = v.revision
	}
	if len(h.part.To) == 0 {
		h.part.To = place{revision: h.part.Revision + 1}.logKey()
	}
	from, errFrom := readLogKey(h.part.From)
	to, errTo := readLogKey(h.part.To)
	if errFrom != nil || errTo != nil || from.revision <= firstRevision || to.revision > h.part.Revision+1 {
		return errInvalid("part", "a history from %x to %x at revision %d", h.part.From, h.part.To, h.part.Revision)
	}
	if from.revision > h.part.Revision {
		return nil
	}
	if err := v.at(from.revision - 1); err != nil { // What was replaced must be there.
		return err
	}
	visited := 0
	return v.events(from, h.part.Revision, func(key []byte, ver *version) error {
		if visited++; visited%cancelEvery == 0 && v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		switch {
		case ver.place.compare(to) >= 0:
			return errPartEnd
		case h.full() && h.again:
			return h.more()
		case h.full():
			h.part.To, h.cut = ver.place.logKey(), true
			return errPartEnd
		}
		h.part.Versions++
		h.add(key, ver)
		if ver.prev.revision > 0 && !ver.prevDeleted {
			replaced, err := v.logged(key, ver.prev)
			if err != nil {
				return err
			}
			h.add(key, &replaced)
		}
		seen(ver)
		return nil
	})
}

func (h *partHash) full() bool { return h.part.Versions >= h.versions || h.part.Bytes >= h.bytes }

// more says that this pod has more than the other one.
func (h *partHash) more() error {
	h.part.Versions++
	_, _ = h.sum.Write([]byte("more")) // Never fails.
	return errPartEnd
}

// add takes in a version. What is hashed, and how, is the same in every version of Baton:
// pods of two versions would differ otherwise.
func (h *partHash) add(key []byte, ver *version) {
	r := h.record[:0]
	for _, n := range []int64{int64(len(key)), int64(len(ver.value)), ver.place.revision, int64(ver.place.part), ver.create, ver.version, ver.lease} {
		r = binary.AppendUvarint(r, uint64(n))
	}
	h.record = append(append(r, key...), ver.value...)
	_, _ = h.sum.Write(h.record) // Never fails.
	h.part.Bytes += len(key) + len(ver.value)
}
