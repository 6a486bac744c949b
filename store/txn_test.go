package store

import (
	"context"
	"testing"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// A transaction beside the log writes nothing, nested or not; a branch that is not
// taken does not matter.
func TestTxnThatOnlyReads(t *testing.T) {
	s, err := Open(Options{Dir: tempDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer closeChecked(t, s)
	s.Apply(1, 1, []*kvv1.Command{put("a", "1")})
	write := []*kvv1.Op{{Op: &kvv1.Op_Put{Put: &kvv1.PutRequest{Key: []byte("a")}}}}
	remove := []*kvv1.Op{{Op: &kvv1.Op_Delete{Delete: &kvv1.DeleteRequest{Key: []byte("a")}}}}
	for _, ops := range [][]*kvv1.Op{write, remove, {{Op: &kvv1.Op_Txn{Txn: &kvv1.TxnRequest{Success: write}}}}} {
		_, err = s.Txn(context.Background(), &kvv1.TxnRequest{Success: ops})
		if refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST {
			t.Errorf("%v: %v", ops, err)
		}
	}
	resp, err := s.Txn(context.Background(), &kvv1.TxnRequest{Failure: write})
	if err != nil || !resp.GetSucceeded() || resp.GetHeader().GetRevision() != s.Revision() {
		t.Errorf("%v, %v", resp, err)
	}
}

// A key that does not fit into the file never gets to the flush, which could not
// write it, on any pod.
func TestAKeyTooLongForTheFile(t *testing.T) {
	s, err := Open(Options{Dir: tempDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer closeChecked(t, s)
	lease := &kvv1.Command{Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{Id: 7, TtlSeconds: 60}}}
	attached := func(n int) *kvv1.Command {
		return &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: make([]byte, n), Lease: 7}}}
	}
	results := s.Apply(1, 1, []*kvv1.Command{lease, attached(maxKeyBytes), attached(maxKeyBytes + 1)})
	if results[1].GetPut() == nil || results[2].GetError().GetReason() != kvv1.ErrorReason_ERROR_REASON_TOO_LARGE {
		t.Errorf("the longest key: %v; one more: %v", results[1], results[2])
	}
	if err := s.Flush(context.Background(), 1); err != nil {
		t.Error(err)
	}
}
