package store

import (
	"fmt"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func spanOf(key, end string) ([]byte, []byte) { return []byte(key), []byte(end) }

func rangeOp(key, end string, limit int64, count bool) *kvv1.Op {
	from, to := spanOf(key, end)
	return &kvv1.Op{Op: &kvv1.Op_Range{Range: &kvv1.RangeRequest{Key: from, RangeEnd: to, Limit: limit, CountOnly: count}}}
}

func deleteOp(key, end string) *kvv1.Op {
	from, to := spanOf(key, end)
	return &kvv1.Op{Op: &kvv1.Op_Delete{Delete: &kvv1.DeleteRequest{Key: from, RangeEnd: to}}}
}

func compareAll(key, end string, exists bool) *kvv1.Compare {
	from, to := spanOf(key, end)
	return &kvv1.Compare{Key: from, RangeEnd: to, Operator: kvv1.Compare_OPERATOR_EQUAL, Target: &kvv1.Compare_Exists{Exists: exists}}
}

// A thousand keys under a/, of which half were deleted, and none under b/.
func TestWeigh(t *testing.T) {
	s, err := Open(Options{Dir: tempDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer closeChecked(t, s)
	index := uint64(0)
	apply := func(c *kvv1.Command) {
		index++
		s.Apply(index, 1, []*kvv1.Command{c})
	}
	for i := range 1000 {
		apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: fmt.Appendf(nil, "a/%03d", i)}}})
	}
	from, to := spanOf("a/", "a/5")
	apply(&kvv1.Command{Command: &kvv1.Command_Delete{Delete: &kvv1.DeleteRequest{Key: from, RangeEnd: to}}})
	txn := func(compare []*kvv1.Compare, success, failure []*kvv1.Op) *kvv1.TxnRequest {
		return &kvv1.TxnRequest{Compare: compare, Success: success, Failure: failure}
	}
	ops := func(ops ...*kvv1.Op) []*kvv1.Op { return ops }
	nested := func(txn *kvv1.TxnRequest) *kvv1.Op { return &kvv1.Op{Op: &kvv1.Op_Txn{Txn: txn}} }
	for _, test := range []struct {
		name string
		txn  *kvv1.TxnRequest
		want int
	}{
		{"nothing", txn(nil, nil, nil), 0},
		{"single keys", txn(nil, ops(rangeOp("a/600", "", 0, false), deleteOp("a/601", "")), nil), 0},
		{"a page", txn(nil, ops(rangeOp("a/5", "a0", 100, false)), nil), 101},
		{"a page behind deleted keys", txn(nil, ops(rangeOp("a/", "a0", 100, false)), nil), 601},
		{"a count", txn(nil, ops(rangeOp("a/", "a0", 0, true)), nil), 1000},
		{"a deletion", txn(nil, ops(deleteOp("a/", "a0")), nil), 1000},
		{"twice", txn(nil, ops(rangeOp("a/", "a0", 0, true), deleteOp("a/", "a0")), nil), 2000},
		{"the heavier branch", txn(nil, ops(deleteOp("a/", "a0")), ops(rangeOp("a/5", "a0", 100, false))), 1000},
		{"an empty prefix", txn([]*kvv1.Compare{compareAll("b/", "b0", false)}, nil, nil), 0},
		{"a compare that fails at once", txn([]*kvv1.Compare{compareAll("a/5", "a0", false)}, nil, nil), 1},
		{"a compare that holds", txn([]*kvv1.Compare{compareAll("a/", "a0", true)}, nil, nil), 1000},
		{"nested", txn(nil, ops(nested(txn(nil, nil, ops(nested(txn(nil, ops(deleteOp("a/7", "a/8")), nil)))))), nil), 100},
	} {
		for _, where := range []struct {
			name string
			c    *kvv1.Command
		}{
			{"alone", &kvv1.Command{Command: &kvv1.Command_Txn{Txn: test.txn}}},
			{"in a batch", &kvv1.Command{Command: &kvv1.Command_Batch{Batch: &kvv1.WriteBatch{Writes: []*kvv1.Write{{Write: &kvv1.Write_Txn{Txn: test.txn}}}}}}},
		} {
			fits := func(most int) bool {
				ok, err := s.Weigh(t.Context(), where.c, most)
				if err != nil {
					t.Fatal(err)
				}
				return ok
			}
			if !fits(max(test.want, 1)) || test.want > 1 && fits(test.want-1) {
				t.Errorf("%s, %s: not %d", test.name, where.name, test.want)
			}
		}
	}
}

// A batch of what its caller may not do is refused for that, write by write: how much it
// would look at says whether keys are there.
func TestWeighingTellsNothing(t *testing.T) {
	s := newSecured(t)
	s.as(nil, put("k1", "hers"))
	s.as(nil, put("secret", "another's"))
	probe := func(who, key, end string) bool {
		var writes []*kvv1.Write
		for range 100 {
			txn := &kvv1.TxnRequest{Compare: []*kvv1.Compare{compareAll(key, end, true)}}
			writes = append(writes, &kvv1.Write{Write: &kvv1.Write_Txn{Txn: txn}})
		}
		ok, err := s.Weigh(t.Context(), by(who, &kvv1.Command{Command: &kvv1.Command_Batch{Batch: &kvv1.WriteBatch{Writes: writes}}}), 50)
		if err != nil {
			t.Fatal(err)
		}
		compare := compareAll(key, end, true)
		txn := &kvv1.TxnRequest{Compare: []*kvv1.Compare{compare, compare}}
		alone, err := s.Weigh(t.Context(), by(who, &kvv1.Command{Command: &kvv1.Command_Txn{Txn: txn}}), 1)
		if err != nil || alone != ok {
			t.Errorf("of %q %s to %s in a batch: %t, alone: %t, %v", who, key, end, ok, alone, err)
		}
		return ok
	}
	for _, who := range []string{"a", "", "none"} {
		if !probe(who, "s", "t") {
			t.Errorf("%q learns that there is a key from s to t", who)
		}
	}
	if probe("a", "k", "l") || probe("root", "s", "t") {
		t.Error("who may read it is not weighed")
	}
}
