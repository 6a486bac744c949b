package etcd

import (
	"bytes"
	"cmp"
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// readTxn answers a transaction that cannot write, from this pod's copy at one
// revision.
func (s *kvService) readTxn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	st, err := s.Read(ctx, freshness(serializable(req)))
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	for {
		response, err := readTxnAt(ctx, st, req, st.Revision())
		if err != nil && compacted(err) {
			continue // The revision was compacted away meanwhile: take the newest.
		}
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		response.Header = s.header(response.GetHeader().GetRevision())
		return response, nil
	}
}

// serializable: all that the transaction may do is such ranges. A nested one
// goes through etcd's log.
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

func readTxnAt(ctx context.Context, st *store.Store, req *pb.TxnRequest, revision int64) (*pb.TxnResponse, error) {
	decided, err := decide(ctx, st, req, revision)
	if err != nil {
		return nil, err
	}
	answer := &txnAnswer{before: revision, after: revision, store: st}
	response, err := answer.txn(ctx, req, decided)
	if err != nil {
		return nil, err
	}
	response.Header.Revision = revision
	return response, nil
}

// decide does what applying does with a transaction that cannot write.
func decide(ctx context.Context, st *store.Store, req *pb.TxnRequest, revision int64) (*kvv1.TxnResponse, error) {
	decided, ops := &kvv1.TxnResponse{Succeeded: true}, req.GetSuccess()
	for _, compare := range req.GetCompare() {
		ok, err := holds(ctx, st, compare, revision)
		if err != nil {
			return nil, err
		}
		if !ok {
			decided.Succeeded, ops = false, req.GetFailure()
			break
		}
	}
	for _, op := range ops {
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestTxn:
			nested, err := decide(ctx, st, o.RequestTxn, revision)
			if err != nil {
				return nil, err
			}
			decided.Results = append(decided.Results, &kvv1.OpResult{Result: &kvv1.OpResult_Txn{Txn: nested}})
		case *pb.RequestOp_RequestRange:
			at := o.RequestRange.GetRevision()
			switch {
			case at > revision:
				return nil, rpctypes.ErrGRPCFutureRev
			case at != 0 && at < max(st.Status().Compacted, 1):
				return nil, rpctypes.ErrGRPCCompacted
			}
			page := &kvv1.RangeResponse{}
			if logged(o.RequestRange) {
				var err error
				if page, err = st.Range(ctx, loggedRange(o.RequestRange, revision)); err != nil {
					return nil, err
				}
			}
			if logged(o.RequestRange) || at != 0 {
				decided.Results = append(decided.Results, &kvv1.OpResult{Result: &kvv1.OpResult_Range{Range: page}})
			}
		}
	}
	return decided, nil
}

// errDiffers ends a scan at the first key that decides a compare.
var errDiffers = errors.New("the compare does not hold")

// holds is true when a compare is true of all keys in its range, or, when there
// is none, of the key that does not exist.
func holds(ctx context.Context, st *store.Store, c *pb.Compare, revision int64) (bool, error) {
	found := false
	err := st.Scan(ctx, &kvv1.RangeRequest{
		Key: c.GetKey(), RangeEnd: c.GetRangeEnd(), Revision: revision, KeysOnly: c.GetTarget() != pb.Compare_VALUE,
	}, func(_ int64, kvs []*kvv1.KeyValue) error {
		for _, kv := range kvs {
			found = true
			if !holdsFor(c, kv) {
				return errDiffers
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, errDiffers):
		return false, nil
	case err != nil || found:
		return err == nil, err
	}
	return c.GetTarget() != pb.Compare_VALUE && holdsFor(c, nil), nil
}

func holdsFor(c *pb.Compare, kv *kvv1.KeyValue) bool {
	order := 0
	switch c.GetTarget() {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.GetValue(), c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.GetCreateRevision(), c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.GetModRevision(), c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.GetVersion(), c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.GetLease(), c.GetLease())
	}
	switch c.GetResult() {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	case pb.Compare_LESS:
		return order < 0
	}
	return true // As etcd does with what it does not know.
}
