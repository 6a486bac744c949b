package server

import (
	"context"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// kvService answers baton.kv.v1.KVService.
type kvService struct {
	kvv1.UnsafeKVServiceServer
	core *core
}

// Waits implements Waiter: Put takes a shared deadline.
func (s *kvService) Waits(method string) bool { return method == "Put" }

func (s *kvService) Range(ctx context.Context, req *kvv1.RangeRequest) (*kvv1.RangeResponse, error) {
	if err := checkRange(req); err != nil {
		return nil, err
	}
	if err := s.mayAsk(ctx, req); err != nil {
		return nil, err
	}
	st, err := s.core.prepareRead(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	if len(req.GetRangeEnd()) > 0 {
		turn, err := s.core.turn(ctx, pageBytes(req))
		if err != nil {
			return nil, err
		}
		defer turn.End()
	}
	response, err := st.Range(ctx, req)
	if err != nil {
		return nil, err
	}
	response.GetHeader().Pod = s.core.options.Name
	return response, nil
}

// pageBytes is what an answer may have: whoever leaves so much unread that it would be
// refused is refused before it is read.
func pageBytes(req *kvv1.RangeRequest) int64 {
	if req.GetCountOnly() {
		return 0
	}
	return store.MaxPageBytes
}

// mayAsk refuses a read that would be refused in the end, before it asks the master.
func (s *kvService) mayAsk(ctx context.Context, req *kvv1.RangeRequest) error {
	switch req.GetRead().GetConsistency() {
	case kvv1.Consistency_CONSISTENCY_LOCAL, kvv1.Consistency_CONSISTENCY_BOUNDED:
		return nil
	}
	return s.core.mayRead(ctx, &kvv1.KeyRange{Key: req.GetKey(), RangeEnd: req.GetRangeEnd()})
}

func (s *kvService) Put(ctx context.Context, req *kvv1.PutRequest) (*kvv1.PutResponse, error) {
	if err := checkPut(req, false); err != nil {
		return nil, err
	}
	return propose(s.core.shareDeadline(ctx), s.core, &kvv1.Command{Command: &kvv1.Command_Put{Put: req}}, (*kvv1.Result).GetPut)
}

func (s *kvService) Delete(ctx context.Context, req *kvv1.DeleteRequest) (*kvv1.DeleteResponse, error) {
	if err := checkDelete(req, false); err != nil {
		return nil, err
	}
	return propose(ctx, s.core, &kvv1.Command{Command: &kvv1.Command_Delete{Delete: req}}, (*kvv1.Result).GetDelete)
}

// Txn proposes every transaction, even one that only reads: its compares and ranges
// must see one revision, and Apply ensures that.
func (s *kvService) Txn(ctx context.Context, req *kvv1.TxnRequest) (*kvv1.TxnResponse, error) {
	if err := checkTxn(req, false); err != nil {
		return nil, err
	}
	return propose(ctx, s.core, &kvv1.Command{Command: &kvv1.Command_Txn{Txn: req}}, (*kvv1.Result).GetTxn)
}

func (s *kvService) Scan(req *kvv1.ScanRequest, out grpc.ServerStreamingServer[kvv1.ScanResponse]) error {
	ctx, bounds := out.Context(), req.GetRange()
	if err := checkScan(bounds); err != nil {
		return err
	}
	if err := s.mayAsk(ctx, bounds); err != nil {
		return err
	}
	st, err := s.core.prepareStream(ctx, bounds.GetRead())
	if err != nil {
		return err
	}
	turn, err := s.core.turn(ctx, AnswerPartBytes)
	if err != nil {
		return err
	}
	defer turn.End()
	return st.Scan(ctx, bounds, func(revision int64, kvs []*kvv1.KeyValue) error {
		return turn.Outside(ctx, func() error {
			return out.Send(&kvv1.ScanResponse{
				Header: &kvv1.ResponseHeader{Revision: revision, Pod: s.core.options.Name},
				Kvs:    kvs,
			})
		})
	})
}
