package raftio

import (
	"testing"

	"github.com/batondb/baton/replication"
)

func TestTrail(t *testing.T) {
	tr := &Trail{}
	if tr.Last().Index != 0 || tr.At(0).Index != 0 || tr.At(5).Index != 0 {
		t.Error("an empty trail knows something")
	}
	for i := uint64(1); i <= trailLength+1; i++ {
		tr.Note(replication.Mark{Index: i, Revision: int64(i)})
	}
	if tr.At(1).Index != 0 || tr.At(2).Revision != 2 || tr.Last().Index != trailLength+1 {
		t.Error(tr.At(1), tr.At(2), tr.Last())
	}
}
