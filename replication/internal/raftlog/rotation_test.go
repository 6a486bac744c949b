package raftlog

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// interrupted makes a log whose newest file was filled and ended, but whose
// metadata does not know, as a crash leaves it. It returns the last index, the
// file, and where the file's index begins.
func interrupted(t *testing.T, dir string) (last uint64, path string, index int64) {
	t.Helper()
	l := openAgain(t, dir)
	if err := l.StoreLogs(entriesOf(1, 10, 1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	meta := &metadb.BoltMetaDB{}
	state, err := meta.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	tail := state.Segments[len(state.Segments)-1]
	file, err := segment.NewFiler(dir, fs.New()).RecoverTail(tail)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i := uint64(11); ; i++ {
		var entry bytes.Buffer
		if err := (&wal.BinaryCodec{}).Encode(&raft.Log{Index: i, Term: 1, Data: make([]byte, 10_000)}, &entry); err != nil {
			t.Fatal(err)
		}
		if err := file.Append([]types.LogEntry{{Index: i, Data: entry.Bytes()}}); err != nil {
			t.Fatal(err)
		}
		if sealed, index, _ := file.Sealed(); sealed {
			return i, filepath.Join(dir, segment.FileName(tail)), int64(index)
		}
	}
}

// goesOn appends to a log, opens it again, and reads all of it.
func goesOn(t *testing.T, dir string, last uint64) {
	t.Helper()
	l := openAgain(t, dir)
	if got, err := l.LastIndex(); err != nil || got != last {
		t.Fatalf("the last index is %d, want %d (%v)", got, last, err)
	}
	if err := l.StoreLogs(entriesOf(last+1, last+100, 2)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openAgain(t, dir)
	defer l.Close()
	for i := uint64(1); i <= last+100; i++ {
		var e raft.Log
		if err := l.GetLog(i, &e); err != nil || e.Index != i {
			t.Fatalf("entry %d: %v (%v)", i, e.Index, err)
		}
	}
}

// A pod that was killed between the end of a file of the log and the note of it
// could never append to its log again.
func TestRotationIsFinishedAfterACrash(t *testing.T) {
	dir := t.TempDir()
	last, _, _ := interrupted(t, dir)
	goesOn(t, dir, last)
}

// The end of the file was written in part: its last entry was not acknowledged.
func TestTornRotationIsUndone(t *testing.T) {
	dir := t.TempDir()
	last, path, index := interrupted(t, dir)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// A part of the index and the commit after it never reached the disk.
	if _, err := file.WriteAt(make([]byte, 4096), index+8); err != nil {
		t.Fatal(err)
	}
	goesOn(t, dir, last-1)
}
