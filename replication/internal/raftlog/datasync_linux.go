package raftlog

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// newFS is the operating system's file system, with fdatasync in the place of
// fsync: the log's files are allocated whole when they are created, and the
// time of their last change, which fsync also writes, is of no use to anyone.
func newFS() types.VFS { return datasyncFS{fs.New()} }

type datasyncFS struct{ *fs.FS }

func (d datasyncFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	return datasyncing(d.FS.Create(dir, name, size))
}

func (d datasyncFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	return datasyncing(d.FS.OpenWriter(dir, name))
}

func datasyncing(file types.WritableFile, err error) (types.WritableFile, error) {
	if err != nil {
		return nil, err
	}
	withDescriptor, ok := file.(interface{ Fd() uintptr })
	if !ok {
		return nil, fmt.Errorf("a file of the log has no descriptor: %T", file)
	}
	return &datasyncFile{WritableFile: file, descriptor: int(withDescriptor.Fd())}, nil
}

type datasyncFile struct {
	types.WritableFile
	descriptor int
	synced     atomic.Bool
}

// Sync goes through the library once, which syncs the directory as well.
func (f *datasyncFile) Sync() error {
	if !f.synced.Load() {
		if err := f.WritableFile.Sync(); err != nil {
			return err
		}
		f.synced.Store(true)
		return nil
	}
	for {
		if err := syscall.Fdatasync(f.descriptor); err != syscall.EINTR {
			return err
		}
	}
}
