package server

import (
	"context"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// kvService answers baton.kv.v1.KVService.
type kvService struct {
	kvv1.UnsafeKVServiceServer
	*core
	rangeMethod, scanMethod, putMethod, deleteMethod, txnMethod, batchMethod *method
}

func newKVService(c *core) *kvService {
	return &kvService{
		core:         c,
		rangeMethod:  c.metrics.unary(kvv1.KVService_Range_FullMethodName),
		scanMethod:   c.metrics.stream(kvv1.KVService_Scan_FullMethodName),
		putMethod:    c.metrics.unary(kvv1.KVService_Put_FullMethodName),
		deleteMethod: c.metrics.unary(kvv1.KVService_Delete_FullMethodName),
		txnMethod:    c.metrics.unary(kvv1.KVService_Txn_FullMethodName),
		batchMethod:  c.metrics.stream(kvv1.KVService_Batch_FullMethodName),
	}
}

func (s *kvService) Range(ctx context.Context, req *kvv1.RangeRequest) (*kvv1.RangeResponse, error) {
	return call(ctx, s.core, s.rangeMethod, req, s.read)
}

func (s *kvService) Put(ctx context.Context, req *kvv1.PutRequest) (*kvv1.PutResponse, error) {
	return counted(s.deadlines.share(ctx), s.core, s.putMethod, req, s.put)
}

func (s *kvService) Delete(ctx context.Context, req *kvv1.DeleteRequest) (*kvv1.DeleteResponse, error) {
	return call(ctx, s.core, s.deleteMethod, req, s.delete)
}

func (s *kvService) Txn(ctx context.Context, req *kvv1.TxnRequest) (*kvv1.TxnResponse, error) {
	return call(ctx, s.core, s.txnMethod, req, s.txn)
}

func (s *kvService) Scan(req *kvv1.ScanRequest, out grpc.ServerStreamingServer[kvv1.ScanResponse]) error {
	return stream(out.Context(), s.core, s.scanMethod, func(ctx context.Context) error {
		return s.scan(ctx, req, out)
	})
}

func (s *kvService) read(ctx context.Context, req *kvv1.RangeRequest) (*kvv1.RangeResponse, error) {
	if err := checkRange(req); err != nil {
		return nil, err
	}
	st, err := s.prepareRead(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	response, err := st.Range(ctx, req)
	if err != nil {
		return nil, err
	}
	response.Header = s.stamp(response.GetHeader())
	return response, nil
}

func (s *kvService) put(ctx context.Context, req *kvv1.PutRequest) (*kvv1.PutResponse, error) {
	if err := checkPut(req, false); err != nil {
		return nil, err
	}
	result, err := s.propose(ctx, &kvv1.Command{Command: &kvv1.Command_Put{Put: req}})
	if err != nil {
		return nil, err
	}
	response := result.GetPut()
	if response == nil {
		return nil, errWrongResult(result)
	}
	response.Header = s.stamp(response.GetHeader())
	return response, nil
}

func (s *kvService) delete(ctx context.Context, req *kvv1.DeleteRequest) (*kvv1.DeleteResponse, error) {
	if err := checkDelete(req, false); err != nil {
		return nil, err
	}
	result, err := s.propose(ctx, &kvv1.Command{Command: &kvv1.Command_Delete{Delete: req}})
	if err != nil {
		return nil, err
	}
	response := result.GetDelete()
	if response == nil {
		return nil, errWrongResult(result)
	}
	response.Header = s.stamp(response.GetHeader())
	return response, nil
}

// txn proposes every transaction, also one that only reads: its compares and
// ranges must see one revision, and Apply gives that.
func (s *kvService) txn(ctx context.Context, req *kvv1.TxnRequest) (*kvv1.TxnResponse, error) {
	if err := checkTxn(req, false); err != nil {
		return nil, err
	}
	result, err := s.propose(ctx, &kvv1.Command{Command: &kvv1.Command_Txn{Txn: req}})
	if err != nil {
		return nil, err
	}
	response := result.GetTxn()
	if response == nil {
		return nil, errWrongResult(result)
	}
	response.Header = s.stamp(response.GetHeader())
	return response, nil
}

func (s *kvService) scan(ctx context.Context, req *kvv1.ScanRequest, out grpc.ServerStreamingServer[kvv1.ScanResponse]) error {
	bounds := req.GetRange()
	if err := checkScan(bounds); err != nil {
		return err
	}
	st, err := s.prepareStream(ctx, bounds.GetRead())
	if err != nil {
		return err
	}
	return st.Scan(ctx, bounds, func(revision int64, kvs []*kvv1.KeyValue) error {
		return out.Send(&kvv1.ScanResponse{
			Header: &kvv1.ResponseHeader{Revision: revision, Pod: s.options.Name},
			Kvs:    kvs,
		})
	})
}
