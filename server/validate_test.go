package server

import (
	"bytes"
	"testing"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	invalid  = kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST
	tooLarge = kvv1.ErrorReason_ERROR_REASON_TOO_LARGE
	fine     = kvv1.ErrorReason_ERROR_REASON_UNSPECIFIED
)

func filled(n int) []byte { return bytes.Repeat([]byte("k"), n) }

func putOp(key string) *kvv1.Op {
	return &kvv1.Op{Op: &kvv1.Op_Put{Put: &kvv1.PutRequest{Key: []byte(key)}}}
}

func deleteOp(key, end string) *kvv1.Op {
	return &kvv1.Op{Op: &kvv1.Op_Delete{Delete: &kvv1.DeleteRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

func txnOp(success, failure []*kvv1.Op) *kvv1.Op {
	return &kvv1.Op{Op: &kvv1.Op_Txn{Txn: &kvv1.TxnRequest{Success: success, Failure: failure}}}
}

func ops(o ...*kvv1.Op) []*kvv1.Op { return o }

func rangeOpAt(revision int64) *kvv1.Op {
	return &kvv1.Op{Op: &kvv1.Op_Range{Range: &kvv1.RangeRequest{Key: []byte("k"), Revision: revision}}}
}

func nested(depth int) *kvv1.TxnRequest {
	txn := &kvv1.TxnRequest{Success: ops(putOp("k"))}
	for range depth - 1 {
		txn = &kvv1.TxnRequest{Success: ops(&kvv1.Op{Op: &kvv1.Op_Txn{Txn: txn}})}
	}
	return txn
}

func manyOps(n int) []*kvv1.Op {
	var all []*kvv1.Op
	for i := range n {
		all = append(all, putOp(string(rune('a'+i))))
	}
	return all
}

func batchOf(n, size int) *kvv1.WriteBatch {
	b := &kvv1.WriteBatch{}
	for range n {
		b.Writes = append(b.Writes, &kvv1.Write{Write: &kvv1.Write_Put{Put: &kvv1.PutRequest{Key: []byte("k"), Value: filled(size)}}})
	}
	return b
}

// Scenario: S35
func TestLimitsAtAndOver(t *testing.T) {
	id := &kvv1.RequestId{ClientId: filled(16), Sequence: 1}
	bounded := &kvv1.ReadOptions{Consistency: kvv1.Consistency_CONSISTENCY_BOUNDED}
	compare := func(c *kvv1.Compare) error { return checkTxn(&kvv1.TxnRequest{Compare: []*kvv1.Compare{c}}, false) }
	for _, test := range []struct {
		name string
		err  error
		want kvv1.ErrorReason
	}{
		{"longest key", checkPut(&kvv1.PutRequest{Key: filled(MaxKeyBytes)}, false), fine},
		{"key too long", checkPut(&kvv1.PutRequest{Key: filled(MaxKeyBytes + 1)}, false), tooLarge},
		{"no key", checkPut(&kvv1.PutRequest{}, false), invalid},
		{"largest value", checkPut(&kvv1.PutRequest{Key: filled(1), Value: filled(MaxValueBytes)}, false), fine},
		{"value too large", checkPut(&kvv1.PutRequest{Key: filled(1), Value: filled(MaxValueBytes + 1)}, false), tooLarge},
		{"value and ignore_value", checkPut(&kvv1.PutRequest{Key: filled(1), Value: filled(1), IgnoreValue: true}, false), invalid},
		{"lease and ignore_lease", checkPut(&kvv1.PutRequest{Key: filled(1), Lease: 1, IgnoreLease: true}, false), invalid},
		{"request id", checkPut(&kvv1.PutRequest{Key: filled(1), RequestId: id}, false), fine},
		{"request id of a part", checkPut(&kvv1.PutRequest{Key: filled(1), RequestId: id}, true), invalid},
		{"short client id", checkPut(&kvv1.PutRequest{Key: filled(1), RequestId: &kvv1.RequestId{ClientId: filled(15)}}, false), invalid},
		{"every key", checkRange(&kvv1.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}), fine},
		{"page after the longest key", checkRange(&kvv1.RangeRequest{Key: filled(MaxKeyBytes + 1), RangeEnd: []byte{0}}), fine},
		{"single key too long", checkRange(&kvv1.RangeRequest{Key: filled(MaxKeyBytes + 1)}), tooLarge},
		{"largest page", checkRange(&kvv1.RangeRequest{Key: filled(1), Limit: maxPageKeys}), fine},
		{"page too large", checkRange(&kvv1.RangeRequest{Key: filled(1), Limit: maxPageKeys + 1}), tooLarge},
		{"negative limit", checkRange(&kvv1.RangeRequest{Key: filled(1), Limit: -1}), invalid},
		{"scan without a cap", checkScan(&kvv1.RangeRequest{Key: filled(1), Limit: maxPageKeys + 1}), fine},
		{"bounded by nothing", checkRange(&kvv1.RangeRequest{Key: filled(1), Read: bounded}), invalid},
		{"unknown consistency", checkRange(&kvv1.RangeRequest{Key: filled(1), Read: &kvv1.ReadOptions{Consistency: 9}}), invalid},
		{"compare", compare(&kvv1.Compare{Key: filled(1), Operator: kvv1.Compare_OPERATOR_EQUAL, Target: &kvv1.Compare_Version{}}), fine},
		{"compare without operator", compare(&kvv1.Compare{Key: filled(1), Target: &kvv1.Compare_Version{}}), invalid},
		{"compare without target", compare(&kvv1.Compare{Key: filled(1), Operator: kvv1.Compare_OPERATOR_EQUAL}), invalid},
		{"deepest", checkTxn(nested(maxTxnDepth), false), fine},
		{"too deep", checkTxn(nested(maxTxnDepth+1), false), tooLarge},
		{"most operations", checkTxn(&kvv1.TxnRequest{Success: manyOps(maxTxnOps)}, false), fine},
		{"too many operations", checkTxn(&kvv1.TxnRequest{Success: manyOps(maxTxnOps + 1)}, false), tooLarge},
		{"a range in the past", checkTxn(&kvv1.TxnRequest{Success: ops(rangeOpAt(3))}, false), invalid},
		{"a range now", checkTxn(&kvv1.TxnRequest{Success: ops(rangeOpAt(0))}, false), fine},
		{"empty operation", checkTxn(&kvv1.TxnRequest{Success: ops(&kvv1.Op{})}, false), invalid},
		{"empty transaction", checkTxn(&kvv1.TxnRequest{}, false), fine},
		{"largest batch", checkBatch(batchOf(maxBatchWrites, 8)), fine},
		{"too many writes", checkBatch(batchOf(maxBatchWrites+1, 8)), tooLarge},
		{"batch too large", checkBatch(batchOf(3, 1<<20)), tooLarge},
		{"empty batch", checkBatch(&kvv1.WriteBatch{}), invalid},
		{"empty write", checkBatch(&kvv1.WriteBatch{Writes: []*kvv1.Write{{}}}), invalid},
		{"no ttl", checkGrant(&kvv1.GrantRequest{}), invalid},
		{"longest ttl", checkGrant(&kvv1.GrantRequest{TtlSeconds: MaxTTLSeconds}), fine},
		{"ttl too long", checkGrant(&kvv1.GrantRequest{TtlSeconds: MaxTTLSeconds + 1}), invalid},
		{"hurried progress", checkWatch(&kvv1.WatchRequest{Key: filled(1), ProgressIntervalMs: 99}), invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			reason, metadata := fine, map[string]string(nil)
			if e := refusal.Of(test.err); e != nil {
				reason, metadata = e.Reason, e.Metadata
			}
			if reason != test.want {
				t.Fatalf("%v, want %v", test.err, test.want)
			}
			if reason == tooLarge && (metadata["limit"] == "" || metadata["actual"] == "") {
				t.Errorf("metadata %v", metadata)
			}
			if reason == invalid && metadata["field"] == "" {
				t.Errorf("metadata %v", metadata)
			}
		})
	}
}

func TestNoKeyIsWrittenTwiceOnAPath(t *testing.T) {
	for _, test := range []struct {
		name string
		txn  *kvv1.TxnRequest
		ok   bool
	}{
		{"different keys", &kvv1.TxnRequest{Success: ops(putOp("a"), putOp("b"))}, true},
		{"one key twice", &kvv1.TxnRequest{Success: ops(putOp("a"), putOp("a"))}, false},
		{"one in each branch", &kvv1.TxnRequest{Success: ops(putOp("a")), Failure: ops(putOp("a"))}, true},
		{"put and delete", &kvv1.TxnRequest{Success: ops(putOp("a"), deleteOp("a", ""))}, false},
		{"delete and put", &kvv1.TxnRequest{Success: ops(deleteOp("a", "c"), putOp("b"))}, false},
		{"the end is not in a range", &kvv1.TxnRequest{Success: ops(deleteOp("a", "c"), putOp("c"))}, true},
		{"from a key on", &kvv1.TxnRequest{Success: ops(deleteOp("a", "\x00"), putOp("z"))}, false},
		{"two deletes", &kvv1.TxnRequest{Success: ops(deleteOp("a", "c"), deleteOp("b", ""))}, true},
		{"nested on the path", &kvv1.TxnRequest{Success: ops(putOp("a"), txnOp(nil, ops(putOp("a"))))}, false},
		{"nested branches apart", &kvv1.TxnRequest{Success: ops(txnOp(ops(putOp("a")), ops(putOp("a"))))}, true},
		{"two nested", &kvv1.TxnRequest{Success: ops(txnOp(ops(putOp("a")), nil), txnOp(nil, ops(deleteOp("a", ""))))}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := checkTxn(test.txn, false)
			if test.ok != (err == nil) || err != nil && refusal.Of(err) == nil {
				t.Fatal(err)
			}
		})
	}
}
