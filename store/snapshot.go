package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/batondb/baton/replication"
)

// A snapshot stream is the database file in frames:
//
//	magic (16 bytes), length of the file (8), checksum of these 24 (4)
//	frames: length (4), checksum of the payload (4), payload
//	end: length 0 (4), checksum of the whole file (4)
//
// Integers are little-endian, checksums CRC-32C. Its length follows from the
// file's, so it is known before the first byte is read.
const (
	snapshotMagic  = "baton snapshot 1"
	snapshotHeader = len(snapshotMagic) + 8 + checksumBytes
	frameHeader    = 8
	frameBytes     = 256 << 10
)

func streamSize(fileSize int64) int64 {
	frames := (fileSize + frameBytes - 1) / frameBytes
	return int64(snapshotHeader) + fileSize + (frames+1)*frameHeader
}

// snapshot is a stream of the whole database as one bbolt transaction sees it.
// It copies nothing until it is read. For one goroutine.
type snapshot struct {
	io.Reader
	position replication.Position
	size     int64
	cancel   func(error)
	ended    chan struct{}
	once     sync.Once
}

// Position is where the log was in the very transaction that is streamed.
func (s *snapshot) Position() replication.Position { return s.position }

// Size is the exact length of the stream in bytes.
func (s *snapshot) Size() int64 { return s.size }

// snapshots are the open ones; each holds a transaction of the file.
type snapshots struct {
	mu   sync.Mutex
	open map[*snapshot]struct{}
}

// Snapshot opens a stream of what is durable. It holds the file's pages as they
// are: writes go on, and the file grows, until it is closed. It must be closed.
func (s *Store) Snapshot() (replication.Snapshot, error) {
	s.database.swap.RLock()
	defer s.database.swap.RUnlock()
	if s.database.closed {
		return nil, ErrClosed
	}
	tx, err := s.database.db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("store: snapshot: %w", err)
	}
	var st state
	err = careful(func() (err error) {
		st, _, err = loadState(tx)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	r, w := io.Pipe()
	opened := &snapshot{
		Reader: r, position: st.position(), size: streamSize(tx.Size()),
		cancel: func(err error) { _ = w.CloseWithError(err) }, ended: make(chan struct{}),
	}
	go func() {
		defer close(opened.ended)
		err := careful(func() error { return writeStream(w, tx) })
		_ = w.CloseWithError(errors.Join(err, tx.Rollback()))
	}()
	s.streams.add(opened)
	return opened, nil
}

// SnapshotNow is Snapshot of all that was applied before the call, which it waits
// for to be on disk.
func (s *Store) SnapshotNow(ctx context.Context) (replication.Snapshot, error) {
	if err := s.Flush(ctx, s.Applied()); err != nil {
		return nil, err
	}
	return s.Snapshot()
}

// Close ends the stream; it returns when the transaction has ended.
func (s *snapshot) Close() error {
	s.once.Do(func() { s.cancel(ErrClosed) })
	<-s.ended
	return nil
}

func (s *snapshots) add(opened *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*snapshot]struct{}{}
	}
	for other := range s.open {
		select {
		case <-other.ended:
			delete(s.open, other)
		default:
		}
	}
	s.open[opened] = struct{}{}
}

// close ends the open streams; their readers get ErrClosed.
func (s *snapshots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for opened := range s.open {
		_ = opened.Close()
	}
	s.open = nil
}

func writeStream(w io.Writer, tx *bbolt.Tx) error {
	header := append(make([]byte, 0, snapshotHeader), snapshotMagic...)
	header = binary.LittleEndian.AppendUint64(header, uint64(tx.Size()))
	header = binary.LittleEndian.AppendUint32(header, crc32.Checksum(header, castagnoli))
	if _, err := w.Write(header); err != nil {
		return err
	}
	frames := &frameWriter{w: w, buffer: make([]byte, frameHeader, frameHeader+frameBytes)}
	if _, err := tx.WriteTo(frames); err != nil {
		return err
	}
	return frames.end()
}

// frameWriter cuts what is written into frames.
type frameWriter struct {
	w      io.Writer
	buffer []byte // Room for the header, then the payload.
	whole  uint32
}

func (f *frameWriter) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		n := min(len(p), frameHeader+frameBytes-len(f.buffer))
		f.buffer = append(f.buffer, p[:n]...)
		p = p[n:]
		if len(f.buffer) == frameHeader+frameBytes {
			if err := f.flush(); err != nil {
				return 0, err
			}
		}
	}
	return written, nil
}

func (f *frameWriter) flush() error {
	payload := f.buffer[frameHeader:]
	f.whole = crc32.Update(f.whole, castagnoli, payload)
	binary.LittleEndian.PutUint32(f.buffer, uint32(len(payload)))
	binary.LittleEndian.PutUint32(f.buffer[4:], crc32.Checksum(payload, castagnoli))
	_, err := f.w.Write(f.buffer)
	f.buffer = f.buffer[:frameHeader]
	return err
}

func (f *frameWriter) end() error {
	if len(f.buffer) > frameHeader {
		if err := f.flush(); err != nil {
			return err
		}
	}
	end := binary.LittleEndian.AppendUint32(make([]byte, 4, frameHeader), f.whole)
	_, err := f.w.Write(end)
	return err
}

// readStream copies the database file out of a stream. On any error, also one
// in its last byte, what was written must not be used.
func readStream(w io.Writer, r io.Reader) error {
	header := make([]byte, snapshotHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return fmt.Errorf("%w: the snapshot ends in its header: %w", ErrCorrupt, err)
	}
	sum := len(header) - checksumBytes
	if string(header[:len(snapshotMagic)]) != snapshotMagic {
		return corrupt("not a snapshot of this version of Baton")
	}
	if binary.LittleEndian.Uint32(header[sum:]) != crc32.Checksum(header[:sum], castagnoli) {
		return corrupt("checksum of the snapshot's header")
	}
	left := int64(binary.LittleEndian.Uint64(header[len(snapshotMagic):]))
	buffer := make([]byte, frameBytes)
	whole := uint32(0)
	for {
		frame := make([]byte, frameHeader)
		if _, err := io.ReadFull(r, frame); err != nil {
			return fmt.Errorf("%w: the snapshot ends %d bytes early: %w", ErrCorrupt, left, err)
		}
		length, sum := int64(binary.LittleEndian.Uint32(frame)), binary.LittleEndian.Uint32(frame[4:])
		if length == 0 {
			if left != 0 || sum != whole {
				return corrupt("the snapshot's end does not match its content (%d bytes missing)", left)
			}
			switch _, err := io.ReadFull(r, frame[:1]); err {
			case io.EOF:
				return nil
			case nil:
				return corrupt("there is more after the snapshot's end")
			default:
				return fmt.Errorf("store: after the snapshot's end: %w", err)
			}
		}
		if length > min(frameBytes, left) {
			return corrupt("a frame of %d bytes where %d are left", length, left)
		}
		payload := buffer[:length]
		if _, err := io.ReadFull(r, payload); err != nil {
			return fmt.Errorf("%w: the snapshot ends %d bytes early: %w", ErrCorrupt, left, err)
		}
		if crc32.Checksum(payload, castagnoli) != sum {
			return corrupt("checksum of the snapshot, %d bytes before its end", left)
		}
		whole = crc32.Update(whole, castagnoli, payload)
		if _, err := w.Write(payload); err != nil {
			return err
		}
		left -= length
	}
}

// Receive writes the database of a snapshot stream into dir: to a temporary
// file first, which takes the place of the database only when it is whole and
// synced, and when every page and record in it is sound: damage in the sender's
// file does not spread. The store must not be open there.
func Receive(dir string, r io.Reader) (replication.Position, error) {
	temporary := filepath.Join(dir, FileName+".receiving")
	st, err := receive(temporary, func(w io.Writer) error { return readStream(w, r) })
	if err != nil {
		return replication.Position{}, errors.Join(err, os.RemoveAll(temporary))
	}
	if err := rename(temporary, filepath.Join(dir, FileName)); err != nil {
		return replication.Position{}, err
	}
	return st.position(), nil
}

func receive(path string, read func(io.Writer) error) (state, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return state{}, fmt.Errorf("store: receive: %w", err)
	}
	err = read(file)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return state{}, fmt.Errorf("store: receive: %w", err)
	}
	db, err := openFile(path, true)
	if err != nil {
		return state{}, err
	}
	var st state
	err = careful(func() error {
		return db.View(func(tx *bbolt.Tx) (err error) {
			if err := checkCopy(tx); err != nil {
				return err
			}
			st, _, err = loadState(tx)
			return err
		})
	})
	return st, errors.Join(err, db.Close())
}
