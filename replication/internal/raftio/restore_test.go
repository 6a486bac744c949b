package raftio

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/machinetest"
)

func TestRestoreDoesNotGoBack(t *testing.T) {
	at := func(index uint64) (*fsm, *machinetest.Machine) {
		m := machinetest.Open(t, t.TempDir())
		f := &fsm{trail: &Trail{}, sm: m, applied: &AppliedIndex{}, fail: func(err error) { t.Error(err) }}
		f.ApplyBatch([]*raft.Log{machinetest.PutEntry(index, 1, fmt.Sprint("at ", index))})
		return f, m
	}
	f, m := at(7)
	for index := uint64(6); index <= 7; index++ {
		_, other := at(index)
		other.Save()
		f.restoring = &spool{index: index}
		if err := f.Restore(io.NopCloser(bytes.NewReader(other.Disk))); err == nil || m.Applied() != 7 {
			t.Errorf("a snapshot at %d: %v, applied up to %d", index, err, m.Applied())
		}
	}
}
