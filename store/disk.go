package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// FileName is the name of the database in the data directory.
const FileName = "store.db"

var (
	bucketKeys      = []byte("keys")
	bucketLog       = []byte("log")
	bucketLeases    = []byte("leases")
	bucketLeaseKeys = []byte("lease_keys")
	bucketRequests  = []byte("requests")
	bucketMeta      = []byte("meta")

	buckets = [][]byte{bucketKeys, bucketLog, bucketLeases, bucketLeaseKeys, bucketRequests, bucketMeta}
)

// mapBytes is the address space set aside for the file. bbolt waits for every
// read to end before it maps a file that has outgrown its mapping; a long
// snapshot would stop the flush. Address space costs nothing.
var mapBytes = 1 << 40

// pageBytes is the size of a new file's pages: bbolt writes each page with a call
// of its own, so that larger ones cost a flush less.
var pageBytes = 16 << 10

// openTimeout bounds the wait for another process that has the file open.
const openTimeout = 2 * time.Second

func openFile(path string, readOnly bool) (*bbolt.DB, error) {
	options := &bbolt.Options{
		Timeout:      openTimeout,
		FreelistType: bbolt.FreelistMapType,
		PageSize:     pageBytes,
		ReadOnly:     readOnly,
	}
	if !readOnly {
		options.InitialMmapSize = mapBytes
	}
	db, err := openBolt(path, options)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, err
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("store: %s is open in another process", path)
	case err != nil:
		return nil, fmt.Errorf("store: open %s: %w", path, err)
	}
	return db, nil
}

// errPanicked is damage over which bbolt panicked.
var errPanicked = fmt.Errorf("%w: bbolt panicked", ErrCorrupt)

// careful turns the panics and faults of bbolt over a damaged file into an error.
func careful(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v\n%s", errPanicked, r, debug.Stack())
		}
	}()
	return f()
}

// openBolt follows no link in the place of the file.
func openBolt(path string, options *bbolt.Options) (db *bbolt.DB, err error) {
	own := *options
	own.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		return os.OpenFile(name, flag|syscall.O_NOFOLLOW, mode)
	}
	err = careful(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &own)
		return err
	})
	// Another version of bbolt's format is none: one flipped bit has it in one of two places.
	for _, damaged := range []error{bolterrors.ErrInvalid, bolterrors.ErrChecksum} {
		if errors.Is(err, damaged) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return db, err
}

// Exists says whether dir holds a database. What a clone or a restore has not
// finished does not count.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, FileName))
	return err == nil
}

// create makes an empty database under a temporary name and renames it, so
// that a crash never leaves half of one.
func create(dir string) error {
	path := filepath.Join(dir, FileName)
	temporary := path + ".new"
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	db, err := openFile(temporary, false)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		st := newState()
		return tx.Bucket(bucketMeta).Put(stateKey, st.encode())
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("store: create %s: %w", path, err)
	}
	return rename(temporary, path)
}

// rename makes a finished file take its place, durably.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// loadState reads what the file claims to hold.
func loadState(tx *bbolt.Tx) (state, place, error) {
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return state{}, place{}, corrupt("there is no bucket %q", name)
		}
	}
	meta := tx.Bucket(bucketMeta)
	record := meta.Get(stateKey)
	if record == nil {
		return state{}, place{}, corrupt("there is no state record")
	}
	st, err := decodeState(record)
	if err != nil {
		return state{}, place{}, err
	}
	scrubbed, err := decodeScrub(meta.Get(scrubKey))
	return st, scrubbed, err
}
