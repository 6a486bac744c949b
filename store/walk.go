package store

import (
	"bytes"
	"errors"
)

// position is a record of the file: everything before it has been looked at.
type position struct{ bucket, key []byte }

// walk has a pageChecker look at the records from a position on, and at the pages on the
// way to them, until it has seen enough. A nil walk looks at everything.
type walk struct {
	at    position
	left  int // Bytes of records to look at before the walk ends.
	read  int // Bytes of pages that were read.
	in    []byte
	visit func(bucket, key, record []byte) error
}

var (
	errWalkEnd   = errors.New("the walk has seen enough")
	errBucketEnd = errors.New("the rest of the bucket does not count")
)

func (w *walk) count(read int) {
	if w != nil {
		w.read += read
	}
}

// passed is true of pages whose keys are all before end, when the walk goes on there.
func (w *walk) passed(end []byte) bool {
	return w != nil && w.in != nil && end != nil && bytes.Compare(end, w.at.key) <= 0
}

// bucket goes through a bucket by inside, unless it was done before.
func (w *walk) bucket(name []byte, inside func() error) error {
	switch order := bytes.Compare(name, w.at.bucket); {
	case w.in != nil:
		return corrupt("a bucket in a bucket")
	case order < 0:
		return nil
	case order > 0:
		w.at = position{bucket: bytes.Clone(name)}
	}
	w.in = w.at.bucket
	err := inside()
	w.in = nil
	if errors.Is(err, errBucketEnd) {
		return nil
	}
	return err
}

func (w *walk) record(key, record []byte) error {
	switch {
	case w.in == nil:
		return corrupt("a record beside the buckets")
	case bytes.Compare(key, w.at.key) < 0:
		return nil
	case w.left <= 0:
		w.at.key = bytes.Clone(key)
		return errWalkEnd
	}
	w.left -= pageElement + len(key) + len(record)
	return w.visit(w.in, key, record)
}
