package store

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/batondb/baton/replication"
)

// Info says what a snapshot file holds.
type Info struct {
	Position  replication.Position
	Revision  int64
	Compacted int64 // The oldest revision that can be read.
	Bytes     int64 // Of the database in it.
}

func readInfo(tx *bbolt.Tx) (Info, error) {
	st, _, err := loadState(tx)
	return Info{Position: st.position(), Revision: st.Revision, Compacted: st.Compacted, Bytes: tx.Size()}, err
}

// Verify checks a snapshot file: its checksums, and every invariant of the
// database in it, for which it needs as much space beside the file. progress
// (may be nil) is told bytes done and in all.
func Verify(ctx context.Context, path string, progress func(done, total int64)) (info Info, err error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".verify-")
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	copied := filepath.Join(dir, FileName)
	if err := receiveFile(ctx, path, copied, progress); err != nil {
		return Info{}, err
	}
	db, err := openFile(copied, true)
	if err != nil {
		return Info{}, err
	}
	defer db.Close()
	err = careful(func() error {
		return db.View(func(tx *bbolt.Tx) (err error) {
			if info, err = readInfo(tx); err != nil {
				return err
			}
			return check(ctx, tx)
		})
	})
	return info, err
}

// receiveFile writes the database of a snapshot file to a path.
func receiveFile(ctx context.Context, path, to string, progress func(done, total int64)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	counting := &countingReader{ctx: ctx, r: file, total: stat.Size(), progress: progress}
	_, err = receive(to, func(w io.Writer) error { return readFile(w, counting, stat.Size()) })
	return err
}

// countingReader reports how far a file was read, and ends with its context.
type countingReader struct {
	ctx         context.Context
	r           io.Reader
	done, total int64
	progress    func(done, total int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
	return n, err
}
