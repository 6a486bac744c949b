package client

import (
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// The messages that are written and read by hand are those of the proto.
func TestFramesAreWhatTheGeneratedCodeReads(t *testing.T) {
	puts := []struct {
		key   string
		value []byte
		o     writeOptions
	}{
		{"a", nil, writeOptions{}},
		{"\xff\x00", []byte("value"), writeOptions{lease: 1 << 40, prevKV: true}},
		{string(make([]byte, 4096)), make([]byte, 70000), writeOptions{keepLease: true}},
		{"b", nil, writeOptions{keepValue: true, lease: -1}},
	}
	want := &kvv1.BatchRequest{Id: 300, Batch: &kvv1.WriteBatch{
		RequestId: &kvv1.RequestId{ClientId: make([]byte, 16), Sequence: 1 << 60, KnownRevision: 1 << 50},
	}}
	var body []byte
	for _, p := range puts {
		body = appendPut(body, p.key, p.value, p.o, putSize(p.key, p.value, p.o))
		want.Batch.Writes = append(want.Batch.Writes, &kvv1.Write{Write: &kvv1.Write_Put{Put: p.o.put(p.key, p.value)}})
	}
	for _, w := range []*kvv1.Write{
		{Write: &kvv1.Write_Delete{Delete: &kvv1.DeleteRequest{Key: []byte("d"), RangeEnd: []byte("e")}}},
		{Write: &kvv1.Write_Txn{Txn: &kvv1.TxnRequest{Compare: []*kvv1.Compare{{Key: []byte("c")}}}}},
	} {
		var err error
		if body, err = appendWrite(body, w, proto.Size(w)); err != nil {
			t.Fatal(err)
		}
		want.Batch.Writes = append(want.Batch.Writes, w)
	}
	got := &kvv1.BatchRequest{}
	if err := proto.Unmarshal(frame(300, body, want.Batch.RequestId).Materialize(), got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func TestAnswersAreWhatTheGeneratedCodeWrites(t *testing.T) {
	plain := &kvv1.WriteResult{Revision: 1 << 40}
	results := []*kvv1.WriteResult{
		plain, {},
		{Revision: 7, Result: &kvv1.WriteResult_Put{Put: &kvv1.PutResponse{PrevKv: &kvv1.KeyValue{Key: []byte("a")}}}},
		{Revision: 7, Result: &kvv1.WriteResult_Error{Error: &kvv1.Error{Message: "no"}}},
	}
	encoded, err := proto.Marshal(&kvv1.BatchResponse{Id: 9, Outcome: &kvv1.BatchResponse_Result{Result: &kvv1.WriteBatchResult{
		Header: &kvv1.ResponseHeader{Revision: 12, Pod: "kv-0"}, Results: results,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := (batchCodec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(encoded)}, &a); err != nil || a.id != 9 || a.err != nil {
		t.Fatalf("%+v %v", a, err)
	}
	var seen int64
	var got []*kvv1.WriteResult
	err = a.results(func(revision int64) { seen = revision }, func(b []byte) error {
		r := &kvv1.WriteResult{}
		revision, ok := onlyRevision(b)
		if err := proto.Unmarshal(b, r); err != nil {
			return err
		}
		if ok != (r.Result == nil) || (ok && revision != r.Revision) {
			t.Errorf("onlyRevision of %v: %d %v", r, revision, ok)
		}
		got = append(got, r)
		return nil
	})
	if err != nil || seen != 12 || len(got) != len(results) {
		t.Fatalf("%v, revision %d, %v", err, seen, got)
	}
	for i := range got {
		if !proto.Equal(got[i], results[i]) {
			t.Errorf("result %d: %v", i, got[i])
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte{8, 1, 18, 2, 10, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var a answer
		if a.unmarshal(b) == nil {
			_ = a.results(func(int64) {}, func(result []byte) error { onlyRevision(result); return nil })
		}
	})
}
