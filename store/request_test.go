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

// A result that is too large to be remembered whole must not read, when it is
// given again, as "there was nothing".
func TestARepeatedWriteThatLostItsValuesSaysSo(t *testing.T) {
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
	sequence := uint64(0)
	id := func() *kvv1.RequestId {
		sequence++
		return &kvv1.RequestId{ClientId: bytes.Repeat([]byte{1}, clientIDBytes), Sequence: sequence}
	}
	large, small := bytes.Repeat([]byte("v"), maxKeptResult), []byte("v")
	put := func(key string, value []byte) *kvv1.PutRequest {
		return &kvv1.PutRequest{Key: []byte(key), Value: value, PrevKv: true}
	}
	txn := func(ops ...*kvv1.Op) *kvv1.TxnRequest { return &kvv1.TxnRequest{Success: ops} }
	opPut := func(r *kvv1.PutRequest) *kvv1.Op { return &kvv1.Op{Op: &kvv1.Op_Put{Put: r}} }
	opGet := &kvv1.Op{Op: &kvv1.Op_Range{Range: &kvv1.RangeRequest{Key: []byte("large")}}}
	apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: put("large", large)}})

	repeated := func(c *kvv1.Command) *kvv1.Result {
		t.Helper()
		if first := resultHeader(apply(c)); first.GetCut() || first.GetReplayed() {
			t.Errorf("the first answer: %v", first)
		}
		return apply(c)
	}
	both := txn(opPut(put("other", small)), &kvv1.Op{Op: &kvv1.Op_Txn{Txn: txn(opGet)}})
	both.RequestId = id()
	if r := repeated(&kvv1.Command{Command: &kvv1.Command_Txn{Txn: both}}).GetTxn(); !r.GetHeader().GetCut() {
		t.Errorf("a get: %v", r)
	}
	batch := &kvv1.WriteBatch{RequestId: id(), Writes: []*kvv1.Write{
		{Write: &kvv1.Write_Put{Put: put("new", small)}},
		{Write: &kvv1.Write_Txn{Txn: txn(opGet)}},
		{Write: &kvv1.Write_Put{Put: put("other", small)}},
	}}
	r := repeated(&kvv1.Command{Command: &kvv1.Command_Batch{Batch: batch}}).GetBatch()
	if !r.GetHeader().GetCut() || r.Results[0].GetCut() || !r.Results[1].GetCut() || !r.Results[2].GetCut() {
		t.Errorf("a batch: %v", r)
	}
	fits := put("other", small)
	fits.RequestId = id()
	if r := repeated(&kvv1.Command{Command: &kvv1.Command_Put{Put: fits}}).GetPut(); r.GetHeader().GetCut() || r.PrevKv == nil {
		t.Errorf("a result that fits: %v", r)
	}
	over := put("large", small)
	over.RequestId = id()
	if r := repeated(&kvv1.Command{Command: &kvv1.Command_Put{Put: over}}).GetPut(); !r.GetHeader().GetCut() {
		t.Errorf("a put: %v", r)
	}
	apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: put("large", large)}})
	gone := &kvv1.DeleteRequest{Key: []byte("large"), PrevKv: true, RequestId: id()}
	if r := repeated(&kvv1.Command{Command: &kvv1.Command_Delete{Delete: gone}}).GetDelete(); !r.GetHeader().GetCut() || r.Deleted != 1 {
		t.Errorf("a delete: %v", r)
	}
}
