package store

import (
	"context"
	"fmt"
)

// events calls add for every version of the revisions from and up to upTo, in
// order. It fails with COMPACTED when from is not kept, and with what add
// returns.
func (s *Store) events(ctx context.Context, from, upTo int64, add func(v *view, key []byte, ver *version) error) (err error) {
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	defer v.close()
	defer s.guard(&err)
	if oldest := s.visible.compacted.Load(); from < oldest {
		return errCompacted(from, oldest)
	}
	v.reading = from
	first := place{revision: max(from, firstRevision+1)} // The empty store has no changes.
	return v.events(first, upTo, func(key []byte, ver *version) error { return add(v, key, ver) })
}

// events is Store.events of a view, which says itself what it reads, from a place on.
func (v *view) events(from place, upTo int64, add func(key []byte, ver *version) error) error {
	next, err := v.fileEvents(from, upTo, add)
	if err != nil {
		return err
	}
	// From the oldest table on; a table begins where the one before it ends.
	for i := len(v.tables) - 1; i >= 0; i-- {
		for _, entry := range v.tables[i].logFrom(next) {
			if entry.revision > upTo {
				return nil
			}
			if entry.revision != next {
				return corrupt("the changes of revision %d are missing", next)
			}
			changes := entry.changes
			if next == from.revision {
				changes = changes[min(int(from.part), len(changes)):]
			}
			for _, c := range changes {
				key, ver, err := takeApart(c.place, c.record)
				if err != nil {
					return err
				}
				if err := add(key, &ver); err != nil {
					return err
				}
			}
			next = entry.revision + 1
		}
	}
	if next <= upTo {
		return corrupt("the changes of revision %d are missing", next)
	}
	return nil
}

// fileEvents does the part of events that no table holds, and returns the
// revision where the tables go on.
func (v *view) fileEvents(from place, upTo int64, add func(key []byte, ver *version) error) (int64, error) {
	first := upTo + 1
	for _, t := range v.tables {
		if log := t.logFrom(0); len(log) > 0 {
			first = log[0].revision
		}
	}
	first = min(first, upTo+1)
	if from.revision >= first {
		return from.revision, nil
	}
	f, err := v.disk()
	if err != nil {
		return 0, err
	}
	next := from
	cursor := f.log.Cursor()
	for key, record := cursor.Seek(next.logKey()); key != nil; key, record = cursor.Next() {
		at, err := readLogKey(key)
		if err != nil {
			return 0, err
		}
		if at.revision >= first {
			break
		}
		// Either the next change of a revision, or the first one of the next.
		if at != next && (at != place{next.revision + 1, 0} || next.part == 0) {
			return 0, corrupt("the changes of revision %d are missing", next.revision)
		}
		changed, ver, err := readLogRecord(at, record)
		if err != nil {
			return 0, err
		}
		if changed != nil {
			if err := add(changed, &ver); err != nil {
				return 0, err
			}
		}
		next = place{at.revision, at.part + 1}
	}
	if next.part > 0 {
		return next.revision + 1, nil
	}
	return next.revision, nil
}

// hash finds the running hash after a revision.
func (v *view) hash(revision int64) (uint64, error) {
	for _, t := range v.tables {
		if log := t.logFrom(revision); len(log) > 0 && log[0].revision == revision {
			return log[0].hash(), nil
		}
	}
	f, err := v.disk()
	if err != nil {
		return 0, err
	}
	at := place{revision: revision}
	record := f.log.Get(at.logKey())
	if record == nil {
		return 0, fmt.Errorf("%w: the log record of revision %d is missing", ErrCorrupt, revision)
	}
	if _, _, err := readLogRecord(at, record); err != nil {
		return 0, err
	}
	return recordHash(record), nil
}
