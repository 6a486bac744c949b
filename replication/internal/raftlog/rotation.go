package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// indexHeaderBytes stand before the index at the end of a sealed file.
const indexHeaderBytes = 8

// finishRotation completes what a crash may have interrupted. The library ends
// a file of the log by writing an index into it, and then says so in its
// metadata and begins the next file. Between the two the file is full, but is
// the one to be appended to: opened like that, the library refuses every append
// for ever ("segment is sealed").
func finishRotation(dir string, meta types.MetaStore, vfs types.VFS) error {
	state, err := meta.Load(dir)
	if err != nil || len(state.Segments) == 0 {
		return err
	}
	tail := &state.Segments[len(state.Segments)-1]
	if !tail.SealTime.IsZero() {
		return nil
	}
	filer := segment.NewFiler(dir, vfs)
	file, err := filer.RecoverTail(*tail)
	if errors.Is(err, os.ErrNotExist) {
		return nil // The library creates it.
	}
	if err != nil {
		return err
	}
	defer file.Close()
	sealed, index, err := file.Sealed()
	if err != nil || !sealed {
		return err
	}
	last := file.LastIndex()
	whole := *tail
	whole.SealTime, whole.IndexStart, whole.MaxIndex = time.Now(), index, last
	if last == 0 || !indexed(filer, whole, file) {
		return unseal(dir, vfs, *tail, index)
	}
	*tail = whole
	state.Segments = append(state.Segments, types.SegmentInfo{
		ID: state.NextSegmentID, BaseIndex: last + 1, MinIndex: last + 1,
		SizeLimit: whole.SizeLimit, Codec: whole.Codec, CreateTime: time.Now(),
	})
	state.NextSegmentID++
	return meta.CommitState(state)
}

// indexed says whether the index of a file leads to every entry that the file
// has without it.
func indexed(filer *segment.Filer, info types.SegmentInfo, file types.SegmentWriter) bool {
	sealed, err := filer.Open(info)
	if err != nil {
		return false
	}
	defer sealed.Close()
	for i := info.MinIndex; i <= info.MaxIndex; i++ {
		want, err := file.GetLog(i)
		if err != nil {
			return false
		}
		got, err := sealed.GetLog(i)
		same := err == nil && bytes.Equal(got.Bs, want.Bs)
		want.Close()
		if err == nil {
			got.Close()
		}
		if !same {
			return false
		}
	}
	return true
}

// unseal removes an index that was not written whole. It was the last that was
// written, and nobody was told that it was: what follows does not count either.
func unseal(dir string, vfs types.VFS, info types.SegmentInfo, index uint64) error {
	file, err := vfs.OpenWriter(dir, segment.FileName(info))
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt(make([]byte, indexHeaderBytes), int64(index)-indexHeaderBytes); err != nil {
		return fmt.Errorf("remove a torn index: %w", err)
	}
	return file.Sync()
}
