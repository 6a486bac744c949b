package etcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/server"
)

const (
	// maxRequestBytes is etcd's default for a write, in the form that etcd's log
	// has; envelopeBytes is what that form adds to the request.
	maxRequestBytes = server.MaxValueBytes
	envelopeBytes   = 18
	// maxTxnOps is etcd's default. It bounds the compares and the operations of
	// each list; what a list has is not left for those nested in it.
	maxTxnOps = 128
	// maxTxnPieces bounds the sum over all lists, which etcd does not: applying a
	// transaction stops every other write for its time. maxTxnRanges of them may
	// be compares and deletions with a range_end, whose time has no bound; that
	// is as many as the native API allows.
	maxTxnPieces = 3 * maxTxnOps
	maxTxnRanges = maxTxnOps
	// maxTxnDepth is the store's.
	maxTxnDepth = 16
)

func checkRange(req *pb.RangeRequest) error {
	if len(req.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if pb.RangeRequest_SortOrder_name[int32(req.GetSortOrder())] == "" ||
		pb.RangeRequest_SortTarget_name[int32(req.GetSortTarget())] == "" {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkRangeStream(req *pb.RangeRequest) error {
	switch err := checkRange(req); {
	case err != nil:
		return err
	case !defaultOrder(req):
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	case filtered(req):
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}

func checkPut(req *pb.PutRequest) error {
	switch {
	case len(req.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case req.GetIgnoreValue() && len(req.GetValue()) != 0:
		return rpctypes.ErrGRPCValueProvided
	case req.GetIgnoreLease() && req.GetLease() != 0:
		return rpctypes.ErrGRPCLeaseProvided
	case len(req.GetKey()) > server.MaxKeyBytes:
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

func checkDelete(req *pb.DeleteRangeRequest) error {
	if len(req.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkSize is for what goes into the log.
func checkSize(req proto.Message) error {
	if proto.Size(req)+envelopeBytes > maxRequestBytes {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

// txnCheck walks a transaction.
type txnCheck struct {
	pieces int
	ranges int  // Compares and deletions of more than one key.
	writes bool // There is a put or a delete in it.
}

// txn gives etcd's errors in etcd's order: of the left operations a list takes
// its own length.
func (c *txnCheck) txn(req *pb.TxnRequest, left, depth int) error {
	longest := max(len(req.GetCompare()), len(req.GetSuccess()), len(req.GetFailure()))
	c.pieces += len(req.GetCompare()) + len(req.GetSuccess()) + len(req.GetFailure())
	if longest > left || c.pieces > maxTxnPieces || depth > maxTxnDepth {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, compare := range req.GetCompare() {
		if len(compare.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
		if err := c.span(compare.GetRangeEnd()); err != nil {
			return err
		}
	}
	for _, ops := range [][]*pb.RequestOp{req.GetSuccess(), req.GetFailure()} {
		for _, op := range ops {
			if err := c.op(op, left-longest, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *txnCheck) op(op *pb.RequestOp, left, depth int) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		c.writes = true
		return checkPut(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		c.writes = true
		if err := checkDelete(o.RequestDeleteRange); err != nil {
			return err
		}
		return c.span(o.RequestDeleteRange.GetRangeEnd())
	case *pb.RequestOp_RequestTxn:
		return c.txn(o.RequestTxn, left, depth+1)
	}
	return rpctypes.ErrGRPCKeyNotFound // What etcd says of an empty operation.
}

// span counts what has an end.
func (c *txnCheck) span(end []byte) error {
	if len(end) > 0 {
		c.ranges++
	}
	if c.ranges > maxTxnRanges {
		return rpctypes.ErrGRPCTooManyOps
	}
	return nil
}
