package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

const (
	defaultMaxBytes = 64 << 20
	// keptFiles beside the one that is written to.
	keptFiles = 4
)

// file is a trail on disk, which does not grow for ever.
type file struct {
	path     string
	maxBytes int64
	on       *os.File
	size     int64
	// torn: the last write ended in the middle of a line.
	torn bool
}

func openFile(path string, maxBytes int64) (*file, error) {
	if maxBytes == 0 {
		maxBytes = defaultMaxBytes
	}
	f := &file{path: path, maxBytes: maxBytes}
	return f, f.open()
}

// open goes on with the file that there is. It follows no link: whoever can write to
// the directory must not choose which file is written to.
func (f *file) open() error {
	on, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	info, err := on.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", f.path)
	}
	if err != nil {
		return errors.Join(err, on.Close())
	}
	// Whatever ended before may have ended in the middle of a line.
	f.on, f.size, f.torn = on, info.Size(), info.Size() > 0 && !endsLine(f.path, info.Size())
	return nil
}

func endsLine(path string, size int64) bool {
	in, err := os.Open(path)
	if err != nil {
		return false
	}
	defer in.Close() //nolint:errcheck // It was only read.
	last := make([]byte, 1)
	_, err = in.ReadAt(last, size-1)
	return err == nil && last[0] == '\n'
}

// Write writes one line.
func (f *file) Write(line []byte) (int, error) {
	if f.on == nil || f.size > 0 && f.size+int64(len(line)) > f.maxBytes {
		if err := f.rotate(); err != nil {
			return 0, err
		}
	}
	if f.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := f.on.Write(line)
	f.size += int64(n)
	if n > 0 {
		f.torn = n < len(line)
	}
	return n, err
}

// rotate begins a new file. If it fails, the next write tries again.
func (f *file) rotate() error {
	if f.on != nil {
		_ = f.on.Close() // What was written is in the file, or its write has said that it is not.
		f.on = nil
		for i := keptFiles; i > 0; i-- {
			from := f.path
			if i > 1 {
				from = fmt.Sprintf("%s.%d", f.path, i-1)
			}
			if err := os.Rename(from, fmt.Sprintf("%s.%d", f.path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return f.open()
}

func (f *file) close() {
	if f.on != nil {
		_ = f.on.Close() // As above.
	}
}
