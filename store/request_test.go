package store

import (
	"bytes"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// A client repeats "create if absent" on another pod and is told that the key
// exists; the key is deleted; then the first copy of the request arrives.
func TestDelayedDuplicateOfWhatChangedNothing(t *testing.T) {
	s, err := Open(Options{Dir: tempDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer closeChecked(t, s)
	index := uint64(0)
	apply := func(c *kvv1.Command) *kvv1.Result {
		index++
		return s.Apply(index, 1, []*kvv1.Command{c})[0]
	}
	key := []byte("lock")
	id := func(sequence uint64) *kvv1.RequestId {
		return &kvv1.RequestId{ClientId: bytes.Repeat([]byte{1}, clientIDBytes), Sequence: sequence}
	}
	put := func(value string) *kvv1.PutRequest { return &kvv1.PutRequest{Key: key, Value: []byte(value)} }
	create := &kvv1.Command{Command: &kvv1.Command_Txn{Txn: &kvv1.TxnRequest{
		Compare: []*kvv1.Compare{{
			Key: key, Operator: kvv1.Compare_OPERATOR_EQUAL, Target: &kvv1.Compare_Exists{Exists: false},
		}},
		Success:   []*kvv1.Op{{Op: &kvv1.Op_Put{Put: put("mine")}}},
		RequestId: id(1),
	}}}
	// A put of a key that must exist, and a delete of one that does not.
	keep := put("kept")
	keep.IgnoreLease, keep.RequestId = true, id(2)
	remove := &kvv1.DeleteRequest{Key: key, RequestId: id(3)}

	deleteIt := &kvv1.Command{Command: &kvv1.Command_Delete{Delete: &kvv1.DeleteRequest{Key: key}}}
	putIt := &kvv1.Command{Command: &kvv1.Command_Put{Put: put("theirs")}}
	apply(putIt)
	if apply(create).GetTxn().Succeeded {
		t.Fatal("the key exists")
	}
	apply(deleteIt)
	if r := apply(create); r.GetTxn() == nil || r.GetTxn().Succeeded || !r.GetTxn().Header.Replayed {
		t.Errorf("the delayed create: %v", r)
	}
	if r := apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: keep}}); r.GetError() == nil {
		t.Fatalf("the key does not exist: %v", r)
	}
	if r := apply(&kvv1.Command{Command: &kvv1.Command_Delete{Delete: remove}}); r.GetDelete().Deleted != 0 {
		t.Fatalf("the key does not exist: %v", r)
	}
	apply(putIt)
	if r := apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: keep}}); r.GetError().GetReason() != kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND {
		t.Errorf("the delayed put: %v", r)
	}
	if r := apply(&kvv1.Command{Command: &kvv1.Command_Delete{Delete: remove}}); r.GetDelete().Deleted != 0 {
		t.Errorf("the delayed delete: %v", r)
	}
}
