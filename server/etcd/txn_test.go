package etcd

import (
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func opRange(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

func opPut(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte("new")}}}
}

func opDelete(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)},
	}}
}

func opTxn(txn *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: txn}}
}

// Each range sees what the operations before it did, and not what comes after.
func TestTxnRangesBetweenWrites(t *testing.T) {
	k := newLocalKV(t)
	k.put(t, "a", "b", "c", "d")
	never := &pb.Compare{Key: []byte("a"), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: 5}}
	r, err := k.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{
		opRange("a", "z"),
		opDelete("b", "d"),
		opRange("a", "z"),
		opTxn(&pb.TxnRequest{
			Compare: []*pb.Compare{never},
			Success: []*pb.RequestOp{opPut("not")},
			Failure: []*pb.RequestOp{opPut("e"), opRange("a", "z")},
		}),
		opPut("a"),
		opRange("a", "z"),
		opRange("a", ""),
		opPut("f"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	at := func(i int) *pb.RangeResponse { return r.GetResponses()[i].GetResponseRange() }
	nested := r.GetResponses()[3].GetResponseTxn()
	for _, c := range []struct {
		name     string
		page     *pb.RangeResponse
		keys     string
		revision int64
	}{
		{"before", at(0), "a b c d ", 5},
		{"after the deletion", at(2), "a d ", 6},
		{"nested", nested.GetResponses()[1].GetResponseRange(), "a d e ", 6},
		{"after the put", at(5), "a d e ", 6},
		{"one key", at(6), "a ", 6},
	} {
		if keysOf(c.page) != c.keys || c.page.GetHeader().GetRevision() != c.revision || c.page.GetCount() != int64(len(c.keys)/2) {
			t.Errorf("%s: %v", c.name, c.page)
		}
	}
	if string(at(2).GetKvs()[0].GetValue()) != "of a" || string(at(5).GetKvs()[0].GetValue()) != "new" {
		t.Errorf("a is %v, then %v", at(2).GetKvs()[0], at(5).GetKvs()[0])
	}
	if nested.GetSucceeded() || nested.GetHeader().GetRevision() != 0 || r.GetHeader().GetRevision() != 6 {
		t.Errorf("the nested transaction: %v", nested)
	}
}

// Two deletions overlap: each has removed what the other had not.
func TestTxnPreviousValues(t *testing.T) {
	k := newLocalKV(t)
	k.put(t, "a", "b", "c", "d")
	first, second := opDelete("a", "c"), opDelete("b", "z")
	first.GetRequestDeleteRange().PrevKv, second.GetRequestDeleteRange().PrevKv = true, true
	r, err := k.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{first, second, opRange("a", "z")}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"a b ", "c d "} {
		gone := r.GetResponses()[i].GetResponseDeleteRange()
		if keysOf(&pb.RangeResponse{Kvs: gone.GetPrevKvs()}) != want || gone.GetDeleted() != 2 || gone.GetHeader().GetRevision() != 6 {
			t.Errorf("deletion %d: %v", i, gone)
		}
	}
	if page := r.GetResponses()[2].GetResponseRange(); page.GetCount() != 0 {
		t.Errorf("left: %v", page)
	}
}

// The state before a transaction is gone when its answer is put together: it was
// applied, and no error may say otherwise.
func TestTxnCompactedMeanwhile(t *testing.T) {
	k := newLocalKV(t)
	k.put(t, "a")
	k.log.applied = func() {
		k.log.applied = nil
		if _, err := k.Compact(t.Context(), &pb.CompactionRequest{Revision: 3}); err != nil {
			t.Error(err)
		}
	}
	_, err := k.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{opRange("a", "z"), opPut("b")}})
	if !errors.Is(err, rpctypes.ErrGRPCTimeout) {
		t.Errorf("%v", err)
	}
}

func TestTxnErrors(t *testing.T) {
	k := newLocalKV(t)
	k.put(t, "a", "b", "c")
	if _, err := k.Compact(t.Context(), &pb.CompactionRequest{Revision: 3}); err != nil {
		t.Fatal(err)
	}
	at := func(revision int64) *pb.RequestOp {
		op := opRange("a", "z")
		op.GetRequestRange().Revision = revision
		return op
	}
	deep := &pb.TxnRequest{Success: []*pb.RequestOp{opPut("x")}}
	for range maxTxnDepth {
		deep = &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(deep)}}
	}
	many := func(n int) []*pb.RequestOp {
		ops := make([]*pb.RequestOp, n)
		for i := range ops {
			ops[i] = opRange("a", "")
		}
		return ops
	}
	wide := &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: many(100)}), opPut("x")}}
	for range 5 {
		wide.Success = append(wide.Success, opTxn(&pb.TxnRequest{Success: many(100)}))
	}
	success := func(ops ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: ops} }
	inner := func(ops ...*pb.RequestOp) *pb.RequestOp { return opTxn(success(ops...)) }
	ranges := &pb.TxnRequest{Success: many(1)}
	for range 100 {
		ranges.Compare = append(ranges.Compare, &pb.Compare{Key: []byte("a"), RangeEnd: []byte("z")})
		ranges.Success = append(ranges.Success, opDelete("x", "z"))
	}
	for _, c := range []struct {
		name string
		req  *pb.TxnRequest
		want error
	}{
		{"too many ranges", ranges, rpctypes.ErrGRPCTooManyOps},
		{"empty", &pb.TxnRequest{}, nil},
		{"empty operation", success(&pb.RequestOp{}), rpctypes.ErrGRPCKeyNotFound},
		{"compare without a key", &pb.TxnRequest{Compare: []*pb.Compare{{}}}, rpctypes.ErrGRPCEmptyKey},
		{"most operations", success(many(128)...), nil},
		{"too many operations", success(many(129)...), rpctypes.ErrGRPCTooManyOps},
		{"a list takes from what it holds", success(append(many(100), inner(many(28)...))...), rpctypes.ErrGRPCTooManyOps},
		{"too deep", deep, rpctypes.ErrGRPCTooManyOps},
		{"too many in all", wide, rpctypes.ErrGRPCTooManyOps},
		{"twice", success(opPut("x"), opPut("x")), rpctypes.ErrGRPCDuplicateKey},
		{"put and deleted", success(opDelete("a", "z"), opPut("x")), rpctypes.ErrGRPCDuplicateKey},
		{"put nested, deleted nested later", success(inner(opPut("x")), inner(opDelete("x", ""))), rpctypes.ErrGRPCDuplicateKey},
		{"on two paths", success(opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut("x")}, Failure: []*pb.RequestOp{opPut("x")}})), nil},
		{"compacted, read only", success(at(2)), rpctypes.ErrGRPCCompacted},
		{"future, read only", success(at(99)), rpctypes.ErrGRPCFutureRev},
		{"compacted", success(opPut("y"), at(2)), rpctypes.ErrGRPCCompacted},
		{"negative", success(opPut("y"), at(-1)), rpctypes.ErrGRPCCompacted},
		{"future", success(opPut("y"), at(99)), rpctypes.ErrGRPCFutureRev},
		{"future on the other path", &pb.TxnRequest{Failure: []*pb.RequestOp{at(99), opPut("y")}}, nil},
		{"the present", success(opPut("y"), at(5)), nil},
		{"no space for it", success(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte("x"), Value: make([]byte, maxRequestBytes)},
		}}), rpctypes.ErrGRPCRequestTooLarge},
	} {
		if _, err := k.Txn(t.Context(), c.req); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if revision := k.store.Status().Revision; revision != 6 {
		t.Errorf("the revision is %d", revision)
	}
}

// What etcd does with values that its protocol does not have.
func TestTxnUnknownCompare(t *testing.T) {
	k := newLocalKV(t)
	k.put(t, "a")
	for _, write := range []bool{false, true} {
		for _, c := range []struct {
			compare *pb.Compare
			want    bool
		}{
			{&pb.Compare{Result: 9, Target: pb.Compare_MOD}, true},
			{&pb.Compare{Result: 9, Target: pb.Compare_VALUE}, true},
			{&pb.Compare{Key: []byte("none"), Result: 9, Target: pb.Compare_VALUE}, false},
			{&pb.Compare{Target: 9}, true},
			{&pb.Compare{Target: 9, Result: pb.Compare_LESS}, false},
		} {
			if c.compare.Key == nil {
				c.compare.Key = []byte("a")
			}
			req := &pb.TxnRequest{Compare: []*pb.Compare{c.compare}}
			if write {
				req.Success, req.Failure = []*pb.RequestOp{opPut("a")}, []*pb.RequestOp{opPut("a")}
			}
			if r, err := k.Txn(t.Context(), req); err != nil || r.GetSucceeded() != c.want {
				t.Errorf("%v: %v, %v", c.compare, r, err)
			}
		}
	}
}
