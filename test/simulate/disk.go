package simulate

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft-wal/types"
)

// Disk is the file system of one process's log, over real files: it knows what
// was written and not synced, is slow, full or hangs on demand, and dies with its
// machine. All methods may be called by any goroutine.
type Disk struct {
	rng *rand.Rand // For crash, which is alone.

	mu      sync.Mutex // Guards the fields below.
	files   map[string]*diskFile
	commits map[string]int // Transactions under way, by file: see committed.
	dead    bool
	full    bool
	latency time.Duration // Of a sync.
	hung    time.Time     // No sync ends before.
	held    time.Time     // No transaction does.
	changed chan struct{} // Closed at the next change of the fields above.
}

// diskFile is what may be lost of one file.
type diskFile struct {
	fresh   bool // Its name was not synced.
	pending []change
}

// change is a write that was not synced, and what was there before.
type change struct {
	offset        int64
	before, after []byte
}

var errDead = errors.New("the machine is off")

// usualLatency is a good disk's.
const usualLatency = 500 * time.Microsecond

func newDisk(rng *rand.Rand) *Disk {
	return &Disk{rng: rng, files: map[string]*diskFile{}, commits: map[string]int{}, latency: usualLatency, changed: make(chan struct{})}
}

// set changes what the disk is like.
func (d *Disk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	close(d.changed)
	d.changed = make(chan struct{})
}

// ok says why nothing can be changed.
func (d *Disk) ok() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.dead:
		return errDead
	case d.full:
		return syscall.ENOSPC
	}
	return nil
}

func (d *Disk) file(path string) *diskFile {
	f := d.files[path]
	if f == nil {
		f = &diskFile{}
		d.files[path] = f
	}
	return f
}

// ListDir implements types.VFS.
func (d *Disk) ListDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Create implements types.VFS.
func (d *Disk) Create(dir, name string, size uint64) (types.WritableFile, error) {
	if err := d.ok(); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(int64(size)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	d.mu.Lock()
	d.file(path).fresh = true
	d.mu.Unlock()
	return &openFile{file, d, path}, nil
}

// Delete implements types.VFS.
func (d *Disk) Delete(dir, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return errDead
	}
	path := filepath.Join(dir, name)
	delete(d.files, path)
	return os.Remove(path)
}

// OpenReader implements types.VFS.
func (d *Disk) OpenReader(dir, name string) (types.ReadableFile, error) {
	return os.Open(filepath.Join(dir, name))
}

// OpenWriter implements types.VFS.
func (d *Disk) OpenWriter(dir, name string) (types.WritableFile, error) {
	if err := d.ok(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		return nil, err
	}
	path := filepath.Join(dir, name)
	file, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &openFile{file, d, path}, nil
}

// openFile is a file of a Disk.
type openFile struct {
	*os.File
	disk *Disk
	path string
}

func (f *openFile) WriteAt(p []byte, offset int64) (int, error) {
	if err := f.disk.ok(); err != nil {
		return 0, err
	}
	before := make([]byte, len(p))
	n, err := f.ReadAt(before, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	f.disk.mu.Lock()
	known := f.disk.file(f.path)
	known.pending = append(known.pending, change{offset, before[:n], slices.Clone(p)})
	f.disk.mu.Unlock()
	return f.File.WriteAt(p, offset)
}

// Sync makes durable what was written before it began, when it returns.
func (f *openFile) Sync() error {
	d := f.disk
	if err := d.ok(); err != nil {
		return err
	}
	d.mu.Lock()
	written := len(d.file(f.path).pending)
	d.mu.Unlock()
	if err := d.wait(false); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.file(f.path)
	known.fresh, known.pending = false, known.pending[min(written, len(known.pending)):]
	return nil
}

// wait takes as long as a sync does now, or a transaction.
func (d *Disk) wait(transaction bool) error {
	for began := time.Now(); ; {
		d.mu.Lock()
		rest, changed, dead := max(d.latency-time.Since(began), time.Until(d.hung)), d.changed, d.dead
		if transaction {
			rest = max(rest, time.Until(d.held))
		}
		d.mu.Unlock()
		switch {
		case dead:
			return errDead
		case rest <= 0:
			return nil
		}
		t := time.NewTimer(rest)
		select {
		case <-t.C:
		case <-changed:
		}
		t.Stop()
	}
}

// crash makes a copy of the volume what a power cut may leave of it: all that was
// synced, and of the rest any part. The process is stopped meanwhile.
func (d *Disk) crash(volume, copied string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	paths := make([]string, 0, len(d.files))
	for path := range d.files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		relative, err := filepath.Rel(volume, path)
		if err != nil {
			return err
		}
		if err := d.files[path].crash(filepath.Join(copied, relative), d.rng); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// sector is what a disk writes whole.
const sector = 512

func (f *diskFile) crash(path string, rng *rand.Rand) error {
	if f.fresh && rng.IntN(2) == 0 {
		return os.Remove(path)
	}
	if len(f.pending) == 0 {
		return nil
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // The writes' errors count.
	for _, c := range slices.Backward(f.pending) {
		// What was beyond the end of the file reads as zeros.
		if _, err := file.WriteAt(append(slices.Clone(c.before), make([]byte, len(c.after)-len(c.before))...), c.offset); err != nil {
			return err
		}
	}
	odds := rng.IntN(5) // From none to all.
	for _, c := range f.pending {
		kept := len(c.after)
		if rng.IntN(4) >= odds {
			continue
		}
		if rng.IntN(3) == 0 {
			kept = rng.IntN(kept+1) / sector * sector
		}
		if _, err := file.WriteAt(c.after[:kept], c.offset); err != nil {
			return err
		}
	}
	return nil
}

// copyVolume copies a data directory, holes as holes.
func copyVolume(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o700)
		case !entry.Type().IsRegular():
			return nil // The pipe of a recovery.
		}
		return copyFile(path, target)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // It was only read.
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	block := make([]byte, 64<<10)
	zeros := make([]byte, len(block))
	size := int64(0)
	for {
		n, err := in.Read(block)
		if n > 0 && string(block[:n]) != string(zeros[:n]) {
			if _, err := out.WriteAt(block[:n], size); err != nil {
				return errors.Join(err, out.Close())
			}
		}
		size += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, out.Close())
		}
	}
	return errors.Join(out.Truncate(size), out.Close())
}

// slow says that a sync takes long now.
func (d *Disk) slow() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.latency > 5*time.Millisecond || time.Now().Before(d.hung)
}
