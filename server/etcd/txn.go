package etcd

import (
	"context"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
)

// errAfterwards is returned for a write that was applied but whose answer cannot be
// put together, because the pod stops, or because the state before the write is
// already compacted away. It must not say that nothing was applied.
var errAfterwards = rpctypes.ErrGRPCTimeout

// Txn puts into the log what writes and what decides: puts, deletes, compares,
// and ranges of one key. The other ranges are read afterwards from this pod's
// copy, so that no pod does their work while it applies; see txnAnswer.
func (s *kvService) Txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	check := txnCheck{}
	if err := check.txn(req, maxTxnOps, 1); err != nil {
		return nil, err
	}
	native := nativeTxn(req)
	if server.WrittenTwice(native) {
		return nil, rpctypes.ErrGRPCDuplicateKey
	}
	if !check.writes {
		return s.readTxn(ctx, req, native)
	}
	if err := checkSize(req); err != nil {
		return nil, err
	}
	command := &kvv1.Command{Command: &kvv1.Command_Txn{Txn: native}}
	if state := s.pod.Access(); state.Enabled() {
		command.Identity = identityFor(state, reads(req))
	}
	applied, err := server.Propose(ctx, s.pod.Backend, command, (*kvv1.Result).GetTxn)
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	revision := applied.GetHeader().GetRevision()
	response, err := s.answer(revision, changed(applied)).txn(ctx, req, applied)
	if err != nil {
		return nil, errAfterwards
	}
	response.Header = s.pod.header(revision)
	return response, nil
}

// logged says whether the log answers a range, together with its transaction.
func logged(req *pb.RangeRequest) bool { return len(req.GetRangeEnd()) == 0 && req.GetRevision() == 0 }

func loggedRange(req *pb.RangeRequest) *kvv1.RangeRequest {
	return &kvv1.RangeRequest{Key: req.GetKey(), KeysOnly: req.GetKeysOnly() || req.GetCountOnly()}
}

// nothing is a range without keys. In a transaction it asks whether a revision can be
// read.
func nothing(revision int64) *kvv1.RangeRequest {
	return &kvv1.RangeRequest{Key: []byte{1}, RangeEnd: []byte{1}, Revision: revision}
}

func nativeTxn(req *pb.TxnRequest) *kvv1.TxnRequest {
	native := &kvv1.TxnRequest{Success: nativeOps(req.GetSuccess()), Failure: nativeOps(req.GetFailure())}
	for _, compare := range req.GetCompare() {
		if c := nativeCompare(compare); c != nil {
			native.Compare = append(native.Compare, c)
		}
	}
	return native
}

func nativeOps(ops []*pb.RequestOp) []*kvv1.Op {
	var native []*kvv1.Op
	add := func(req *kvv1.RangeRequest) { native = append(native, &kvv1.Op{Op: &kvv1.Op_Range{Range: req}}) }
	for _, op := range ops {
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			native = append(native, &kvv1.Op{Op: &kvv1.Op_Put{Put: nativePut(o.RequestPut)}})
		case *pb.RequestOp_RequestDeleteRange:
			native = append(native, &kvv1.Op{Op: &kvv1.Op_Delete{Delete: nativeDelete(o.RequestDeleteRange)}})
		case *pb.RequestOp_RequestTxn:
			native = append(native, &kvv1.Op{Op: &kvv1.Op_Txn{Txn: nativeTxn(o.RequestTxn)}})
		case *pb.RequestOp_RequestRange:
			switch {
			case logged(o.RequestRange):
				add(loggedRange(o.RequestRange))
			case o.RequestRange.GetRevision() != 0:
				add(nothing(o.RequestRange.GetRevision()))
			}
		}
	}
	return native
}

var operatorOf = map[pb.Compare_CompareResult]kvv1.Compare_Operator{
	pb.Compare_EQUAL:     kvv1.Compare_OPERATOR_EQUAL,
	pb.Compare_NOT_EQUAL: kvv1.Compare_OPERATOR_NOT_EQUAL,
	pb.Compare_GREATER:   kvv1.Compare_OPERATOR_GREATER,
	pb.Compare_LESS:      kvv1.Compare_OPERATOR_LESS,
}

// nativeCompare is nil for what is always true. To etcd, a result that it does
// not know is that, and of a target that it does not know all values are equal.
func nativeCompare(c *pb.Compare) *kvv1.Compare {
	native := &kvv1.Compare{Key: c.GetKey(), RangeEnd: c.GetRangeEnd(), Operator: operatorOf[c.GetResult()]}
	known := native.Operator != kvv1.Compare_OPERATOR_UNSPECIFIED
	switch c.GetTarget() {
	case pb.Compare_VERSION:
		native.Target = &kvv1.Compare_Version{Version: c.GetVersion()}
	case pb.Compare_CREATE:
		native.Target = &kvv1.Compare_CreateRevision{CreateRevision: c.GetCreateRevision()}
	case pb.Compare_MOD:
		native.Target = &kvv1.Compare_ModRevision{ModRevision: c.GetModRevision()}
	case pb.Compare_LEASE:
		native.Target = &kvv1.Compare_Lease{Lease: c.GetLease()}
	case pb.Compare_VALUE:
		native.Target = &kvv1.Compare_Value{Value: c.GetValue()}
		if !known { // But a key that does not exist has no value to be equal to.
			native.Operator, known = kvv1.Compare_OPERATOR_EQUAL, true
			native.Target = &kvv1.Compare_Exists{Exists: true}
		}
	default:
		if known && c.GetResult() != pb.Compare_EQUAL {
			return &kvv1.Compare{
				Key: c.GetKey(), Operator: kvv1.Compare_OPERATOR_GREATER, Target: &kvv1.Compare_Version{Version: math.MaxInt64},
			}
		}
		return nil
	}
	if !known {
		return nil
	}
	return native
}
