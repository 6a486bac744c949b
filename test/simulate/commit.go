package simulate

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/batondb/baton/test/workload"
)

// The database and the votes are files of bbolt, mapped into memory: a Disk cannot
// stand in for them. A transaction of bbolt writes pages that nothing refers to,
// syncs, writes one of the two meta pages, which has the transaction's number and a
// checksum, and syncs again. The pages of the state before stay until the next
// transaction, and with a meta page that is torn, or was not written, the file is
// in that state. So a transaction takes time here once bbolt has written it, in
// which nothing relies on it; and a process that is killed meanwhile, or whose
// machine loses its power, may leave the file without it.

// committed lets a transaction take as long as a sync.
func (d *Disk) committed(path string, transaction int) {
	d.mu.Lock()
	d.commits[path] = transaction
	d.mu.Unlock()
	_ = d.wait(true) // It is dead: nobody relies on anything any more.
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dead && d.commits[path] == transaction {
		delete(d.commits, path)
	}
}

// underway says whether there is a transaction.
func (d *Disk) underway() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.commits) > 0
}

// inTransaction lets a pod's transactions take long, and ends it in one. Of an
// election all have one in the file of the votes.
func inTransaction(ctx context.Context, n *nemesis) {
	m, until := n.any(), time.Now().Add(n.between(time.Second, 8*time.Second))
	n.withDisk(m, func(d *Disk) { d.held = until })
	if leader := n.master(ctx); leader != m && n.rng.IntN(2) == 0 {
		n.kill(leader, false)
	}
	for time.Now().Before(until) && workload.Pause(ctx, 2*time.Millisecond) == nil {
		p := m.process.Load()
		if !p.running() {
			return
		}
		if p.disk.underway() {
			_ = workload.Pause(ctx, n.between(0, 200*time.Millisecond))
			n.kill(m, n.rng.IntN(4) > 0)
			return
		}
	}
}

// undo takes transactions that were under way out of a copy of the volume, or not.
func (d *Disk) undo(volume, copied string, power bool) (undone []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(d.commits)) {
		relative, err := filepath.Rel(volume, path)
		if err != nil {
			return undone, err
		}
		if d.rng.IntN(3) == 0 {
			continue
		}
		kept := 0 // A process that is killed writes the page or does not.
		if power {
			kept = d.rng.IntN(metaBytes)
		}
		if err := tearMeta(filepath.Join(copied, relative), d.commits[path], kept); err != nil && !errors.Is(err, os.ErrNotExist) {
			return undone, err
		}
		undone = append(undone, relative)
	}
	return undone, nil
}

// What is at which byte of a meta page, after bbolt's header of all pages: its
// internal/common/meta.go.
const (
	metaAt      = 16
	metaMagic   = metaAt
	metaPage    = metaAt + 8
	metaNumber  = metaAt + 48
	metaBytes   = metaAt + 64
	magicNumber = 0xED0CDAED
	// smallestPage and largestPage are where bbolt looks for the second one.
	smallestPage, largestPage = 1 << 10, 1 << 25
)

// tearMeta leaves only the first bytes of the meta page of a transaction, if it is
// the file's newest.
func tearMeta(path string, transaction, kept int) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // The writes' errors count.
	page := make([]byte, metaBytes)
	for at := int64(0); at <= largestPage; at = max(2*at, smallestPage) {
		if n, _ := file.ReadAt(page, at); n < metaBytes {
			return nil
		}
		if binary.NativeEndian.Uint32(page[metaMagic:]) != magicNumber || at > 0 && int64(binary.NativeEndian.Uint32(page[metaPage:])) != at {
			continue
		}
		if number := binary.NativeEndian.Uint64(page[metaNumber:]); number == uint64(transaction) {
			clear(page[kept:])
			_, err := file.WriteAt(page, at)
			return err
		}
	}
	return nil
}
