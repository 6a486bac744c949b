package etcd

import (
	"bytes"
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// txnAnswer makes etcd's answer to a write that was applied. Ranges that the log
// did not carry are read now, from a copy that has the write. What a transaction
// changed before a range, in the order of its operations, the range saw as it is
// now; everything else as it was before. No key is written twice, so there are
// no states in between.
type txnAnswer struct {
	before, after int64 // The revisions; equal when nothing changed.
	open          func(ctx context.Context, revision int64) (*store.Store, error)
	store         *store.Store // Once it is open.

	// What was written so far.
	changed bool
	puts    [][]byte
	deletes []*pb.DeleteRangeRequest
}

// answer begins that to a write, with the revision after it.
func (s *kvService) answer(revision int64, changed bool) *txnAnswer {
	a := &txnAnswer{before: revision, after: revision, open: s.copyAt}
	if changed {
		a.before--
	}
	return a
}

// copyAt returns this pod's copy once it has a revision.
func (s *kvService) copyAt(ctx context.Context, revision int64) (*store.Store, error) {
	return s.pod.Read(ctx, &kvv1.ReadOptions{Consistency: kvv1.Consistency_CONSISTENCY_LOCAL, MinRevision: revision})
}

// changed says that a transaction made a revision.
func changed(txn *kvv1.TxnResponse) bool {
	return slices.ContainsFunc(txn.GetResults(), func(result *kvv1.OpResult) bool {
		return result.GetPut() != nil || result.GetDelete().GetDeleted() > 0 || changed(result.GetTxn())
	})
}

// txn leaves the header empty, as etcd does for a nested transaction.
func (a *txnAnswer) txn(ctx context.Context, req *pb.TxnRequest, applied *kvv1.TxnResponse) (*pb.TxnResponse, error) {
	response := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: applied.GetSucceeded()}
	ops, results := req.GetFailure(), applied.GetResults()
	if applied.GetSucceeded() {
		ops = req.GetSuccess()
	}
	for _, op := range ops {
		var result *kvv1.OpResult
		if r := op.GetRequestRange(); r == nil || logged(r) || r.GetRevision() != 0 {
			result, results = results[0], results[1:]
		}
		answered, err := a.op(ctx, op, result)
		if err != nil {
			return nil, err
		}
		response.Responses = append(response.Responses, answered)
	}
	return response, nil
}

func (a *txnAnswer) op(ctx context.Context, op *pb.RequestOp, result *kvv1.OpResult) (*pb.ResponseOp, error) {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestPut:
		a.changed, a.puts = true, append(a.puts, o.RequestPut.GetKey())
		put := &pb.PutResponse{Header: a.header(), PrevKv: keyValue(result.GetPut().GetPrevKv())}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: put}}, nil
	case *pb.RequestOp_RequestDeleteRange:
		gone, err := a.deletion(ctx, o.RequestDeleteRange, result.GetDelete())
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: gone}}, err
	case *pb.RequestOp_RequestTxn:
		nested, err := a.txn(ctx, o.RequestTxn, result.GetTxn())
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: nested}}, err
	}
	req := op.GetRequestRange()
	found, err := a.keys(ctx, req, result.GetRange())
	if err != nil {
		return nil, err
	}
	page := found.answer(req)
	page.Header = a.header()
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: page}}, nil
}

// deletion reads what a deletion of several keys has removed: it was there before,
// and nothing else had removed it.
func (a *txnAnswer) deletion(ctx context.Context, req *pb.DeleteRangeRequest, applied *kvv1.DeleteResponse) (*pb.DeleteRangeResponse, error) {
	response := &pb.DeleteRangeResponse{Deleted: applied.GetDeleted(), PrevKvs: keyValues(applied.GetPrevKvs())}
	if applied.GetDeleted() > 0 {
		if req.GetPrevKv() && len(req.GetRangeEnd()) > 0 {
			if err := a.ready(ctx); err != nil {
				return nil, err
			}
			found, err := read(ctx, a.store, &pb.RangeRequest{Key: req.GetKey(), RangeEnd: req.GetRangeEnd()}, a.before)
			if err != nil {
				return nil, err
			}
			response.PrevKvs = keyValues(a.without(found.kvs))
		}
		a.changed, a.deletes = true, append(a.deletes, req)
	}
	response.Header = a.header()
	return response, nil
}

// header builds an operation's header: only the revision that was reached.
func (a *txnAnswer) header() *pb.ResponseHeader {
	if a.changed {
		return &pb.ResponseHeader{Revision: a.after}
	}
	return &pb.ResponseHeader{Revision: a.before}
}

// keys are what a range of the transaction saw.
func (a *txnAnswer) keys(ctx context.Context, req *pb.RangeRequest, page *kvv1.RangeResponse) (*keys, error) {
	if logged(req) {
		found := &keys{kvs: page.GetKvs(), count: int64(len(page.GetKvs()))}
		if req.GetCountOnly() {
			found.kvs = nil
		}
		return found, nil
	}
	if err := a.ready(ctx); err != nil {
		return nil, err
	}
	switch {
	case req.GetRevision() > 0:
		return read(ctx, a.store, req, req.GetRevision())
	case !a.changed:
		return read(ctx, a.store, req, a.before)
	}
	return a.overlaid(ctx, req)
}

// ready opens the copy.
func (a *txnAnswer) ready(ctx context.Context) (err error) {
	if a.store == nil {
		a.store, err = a.open(ctx, a.after)
	}
	return err
}

// without leaves out what was written so far.
func (a *txnAnswer) without(kvs []*kvv1.KeyValue) []*kvv1.KeyValue {
	return slices.DeleteFunc(kvs, func(kv *kvv1.KeyValue) bool { return a.written(kv.GetKey()) })
}

// overlaid reads a range as it was, and puts over it what was written since.
func (a *txnAnswer) overlaid(ctx context.Context, req *pb.RangeRequest) (*keys, error) {
	without := withoutValues(req) || req.GetCountOnly()
	found, err := read(ctx, a.store, &pb.RangeRequest{Key: req.GetKey(), RangeEnd: req.GetRangeEnd(), KeysOnly: without}, a.before)
	if err != nil {
		return nil, err
	}
	kvs := a.without(found.kvs)
	for _, key := range a.puts {
		if !server.InRange(key, req.GetKey(), req.GetRangeEnd()) {
			continue
		}
		page, err := a.store.Range(ctx, &kvv1.RangeRequest{Key: key, Revision: a.after, KeysOnly: without})
		if err != nil {
			return nil, err
		}
		kvs = append(kvs, page.GetKvs()...)
	}
	slices.SortFunc(kvs, func(x, y *kvv1.KeyValue) int { return bytes.Compare(x.GetKey(), y.GetKey()) })
	found.count = int64(len(kvs))
	if req.GetCountOnly() {
		kvs = nil
	}
	if fromTheEnd(req) {
		slices.Reverse(kvs)
	}
	if limit := readLimit(req); limit > 0 && limit < int64(len(kvs)) {
		kvs = kvs[:limit]
	}
	found.kvs = kvs
	return found, nil
}

func (a *txnAnswer) written(key []byte) bool {
	return slices.ContainsFunc(a.puts, func(put []byte) bool { return bytes.Equal(put, key) }) ||
		slices.ContainsFunc(a.deletes, func(d *pb.DeleteRangeRequest) bool {
			return server.InRange(key, d.GetKey(), d.GetRangeEnd())
		})
}
