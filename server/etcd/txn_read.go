package etcd

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// readTxn answers a transaction that cannot write, from this pod's copy at one
// revision.
func (s *kvService) readTxn(ctx context.Context, req *pb.TxnRequest, native *kvv1.TxnRequest) (*pb.TxnResponse, error) {
	ranges := func() []*kvv1.KeyRange { return reads(req) }
	st, err := s.pod.read(ctx, serializable(req), ranges)
	if err == nil {
		err = mayRead(ctx, st, ranges)
	}
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	if slices.ContainsFunc(ranges(), func(r *kvv1.KeyRange) bool { return len(r.GetRangeEnd()) > 0 }) {
		turn, err := s.pod.Turn(ctx, false)
		if err != nil {
			return nil, s.pod.fail(ctx, err)
		}
		defer turn.End()
	}
	for {
		decided, err := st.Txn(ctx, native)
		if err != nil {
			return nil, s.pod.fail(ctx, err)
		}
		revision := decided.GetHeader().GetRevision()
		answer := &txnAnswer{before: revision, after: revision, store: st}
		response, err := answer.txn(ctx, req, decided)
		if compacted(err) {
			continue // A compaction overtook the other ranges: take the newest revision.
		}
		if err != nil {
			return nil, s.pod.fail(ctx, err)
		}
		response.Header = s.pod.header(revision)
		return response, nil
	}
}

// serializable tells whether a transaction holds nothing but serializable ranges. One
// with a nested transaction goes through etcd's log.
func serializable(req *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{req.GetSuccess(), req.GetFailure()} {
		for _, op := range ops {
			if !op.GetRequestRange().GetSerializable() {
				return false
			}
		}
	}
	return true
}
