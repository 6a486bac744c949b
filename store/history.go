package store

import "fmt"

// events calls add for every change of the revisions from and up to upTo, in
// order. It fails with COMPACTED when from is not kept, and with what add
// returns.
func (s *Store) events(from, upTo int64, add func(v *view, revision int64, c change) error) (err error) {
	v, err := s.view()
	if err != nil {
		return err
	}
	defer v.close()
	defer s.guard(&err)
	if oldest := s.compacted.Load(); from < oldest {
		return errCompacted(from, oldest)
	}
	v.reading = from
	next, err := v.diskEvents(from, upTo, add)
	if err != nil {
		return err
	}
	// From the oldest table on; a table begins where the one before it ends.
	for i := len(v.tables) - 1; i >= 0; i-- {
		for _, entry := range v.tables[i].logFrom(next) {
			if entry.revision > upTo {
				return nil
			}
			for _, c := range entry.changes {
				if err := add(v, entry.revision, c); err != nil {
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

// diskEvents does the part of events that no table holds, and returns the
// revision where the tables go on.
func (v *view) diskEvents(from, upTo int64, add func(v *view, revision int64, c change) error) (int64, error) {
	first := upTo + 1
	for _, t := range v.tables {
		if log := t.logFrom(0); len(log) > 0 {
			first = log[0].revision
		}
	}
	first = min(first, upTo+1)
	if from >= first {
		return from, nil
	}
	if from == firstRevision {
		from++ // The empty store has no changes.
	}
	if _, err := v.disk(); err != nil {
		return 0, err
	}
	cursor := v.tx.Bucket(bucketLog).Cursor()
	next, parts := from, uint32(0)
	for key, record := cursor.Seek(logKey(from, 0)); key != nil; key, record = cursor.Next() {
		revision, part, err := readLogKey(key)
		if err != nil {
			return 0, err
		}
		if revision >= first {
			break
		}
		// Either a new revision, or the next part of the one before.
		if part == 0 && revision != next || part != 0 && (revision != next-1 || part != parts) {
			return 0, corrupt("the changes of revision %d are missing", next)
		}
		parts = part + 1
		_, changes, err := readLogRecord(key, record)
		if err != nil {
			return 0, err
		}
		for _, c := range changes {
			if err := add(v, revision, c); err != nil {
				return 0, err
			}
		}
		next = revision + 1
	}
	return next, nil
}

// hash finds the running hash after a revision.
func (v *view) hash(revision int64) (uint64, error) {
	for _, t := range v.tables {
		if log := t.logFrom(revision); len(log) > 0 && log[0].revision == revision {
			return log[0].hash, nil
		}
	}
	if _, err := v.disk(); err != nil {
		return 0, err
	}
	key := logKey(revision, 0)
	record := v.tx.Bucket(bucketLog).Get(key)
	if record == nil {
		return 0, fmt.Errorf("%w: the log record of revision %d is missing", ErrCorrupt, revision)
	}
	hash, _, err := readLogRecord(key, record)
	return hash, err
}
