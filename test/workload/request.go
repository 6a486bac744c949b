package workload

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
)

// This file turns ops into requests, and answers into answers of ops.

func txnRequest(op *history.Op) *kvv1.TxnRequest {
	txn := &kvv1.TxnRequest{}
	for _, g := range op.Guards {
		compare := &kvv1.Compare{Key: []byte(g.Key), Operator: kvv1.Compare_OPERATOR_EQUAL}
		switch {
		case g.ByValue:
			compare.Target = &kvv1.Compare_Value{Value: []byte(g.Value)}
		case g.Revision == 0:
			compare.Target = &kvv1.Compare_Exists{Exists: false}
		default:
			compare.Target = &kvv1.Compare_ModRevision{ModRevision: g.Revision}
		}
		txn.Compare = append(txn.Compare, compare)
	}
	for _, w := range op.Writes {
		txn.Success = append(txn.Success, opOf(w))
	}
	if op.Read != nil {
		read := &kvv1.Op{Op: &kvv1.Op_Range{Range: rangeRequest(op.Read)}}
		txn.Success = append(txn.Success, read)
		txn.Failure = append(txn.Failure, read)
	}
	return txn
}

func opOf(w history.Write) *kvv1.Op {
	if w.Delete {
		return &kvv1.Op{Op: &kvv1.Op_Delete{Delete: &kvv1.DeleteRequest{Key: []byte(w.Key)}}}
	}
	return &kvv1.Op{Op: &kvv1.Op_Put{Put: &kvv1.PutRequest{Key: []byte(w.Key), Value: history.Expand(w.Value), Lease: w.Lease}}}
}

// writeRequest is an op that writes: a put or a delete where that is enough,
// sometimes as a transaction or a batch of one.
func writeRequest(op *history.Op, id *kvv1.RequestId, rng *rand.Rand) call {
	txn := txnRequest(op)
	txn.RequestId = id
	if len(op.Guards) > 0 || len(op.Writes) != 1 || op.Read != nil {
		return sendTxn(txn)
	}
	switch rng.IntN(8) {
	case 0:
		return sendTxn(txn)
	case 1:
		return sendBatch(op, id)
	}
	write := opOf(op.Writes[0])
	if deletion := write.GetDelete(); deletion != nil {
		deletion.RequestId = id
		return func(ctx context.Context, conn *grpc.ClientConn) (history.Answer, error) {
			r, err := kvv1.NewKVServiceClient(conn).Delete(ctx, deletion)
			a := history.NewAnswer(r.GetHeader())
			a.Deleted = r.GetDeleted()
			return a, err
		}
	}
	put := write.GetPut()
	put.RequestId = id
	return func(ctx context.Context, conn *grpc.ClientConn) (history.Answer, error) {
		r, err := kvv1.NewKVServiceClient(conn).Put(ctx, put)
		return history.NewAnswer(r.GetHeader()), err
	}
}

func sendTxn(txn *kvv1.TxnRequest) call {
	return func(ctx context.Context, conn *grpc.ClientConn) (history.Answer, error) {
		r, err := kvv1.NewKVServiceClient(conn).Txn(ctx, txn)
		return txnAnswer(r), err
	}
}

func txnAnswer(r *kvv1.TxnResponse) history.Answer {
	a := history.NewAnswer(r.GetHeader())
	a.Succeeded = r.GetSucceeded()
	for _, result := range r.GetResults() {
		a.Deleted += result.GetDelete().GetDeleted()
		for _, kv := range result.GetRange().GetKvs() {
			a.KVs = append(a.KVs, history.NewKV(kv))
		}
	}
	return a
}

// sendBatch writes through a Batch stream.
func sendBatch(op *history.Op, id *kvv1.RequestId) call {
	write := &kvv1.Write{}
	switch o := opOf(op.Writes[0]).Op.(type) {
	case *kvv1.Op_Put:
		write.Write = &kvv1.Write_Put{Put: o.Put}
	case *kvv1.Op_Delete:
		write.Write = &kvv1.Write_Delete{Delete: o.Delete}
	}
	request := &kvv1.BatchRequest{Id: 7, Batch: &kvv1.WriteBatch{Writes: []*kvv1.Write{write}, RequestId: id}}
	return func(ctx context.Context, conn *grpc.ClientConn) (history.Answer, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := kvv1.NewKVServiceClient(conn).Batch(ctx)
		if err != nil {
			return history.Answer{}, err
		}
		if err := stream.Send(request); err != nil {
			_, err = stream.Recv() // Send says EOF, Recv the reason.
			return history.Answer{}, err
		}
		r, err := stream.Recv()
		if err != nil {
			return history.Answer{}, err
		}
		if e := r.GetError(); e != nil {
			return history.Answer{}, refusal(e)
		}
		a := history.NewAnswer(r.GetResult().GetHeader())
		result := r.GetResult().GetResults()[0]
		if e := result.GetError(); e != nil {
			return history.Answer{}, refusal(e)
		}
		a.Revision, a.Deleted = result.Revision, result.GetDelete().GetDeleted()
		return a, nil
	}
}

// refusal makes the error inside a batch's answer the error of a call.
func refusal(e *kvv1.Error) error {
	s, err := status.New(codes.Code(e.Code), e.Message).WithDetails(&errdetails.ErrorInfo{
		Domain: "baton", Reason: strings.TrimPrefix(e.Reason.String(), "ERROR_REASON_"), Metadata: e.Metadata,
	})
	if err != nil {
		return err
	}
	return s.Err()
}

func rangeRequest(r *history.Read) *kvv1.RangeRequest {
	request := &kvv1.RangeRequest{
		Key: []byte(r.Key), RangeEnd: []byte(r.End), Revision: r.At,
		Read: &kvv1.ReadOptions{MinRevision: r.MinRevision},
	}
	switch r.Consistency {
	case history.Bounded:
		request.Read.Consistency = kvv1.Consistency_CONSISTENCY_BOUNDED
		request.Read.MaxStalenessMs = uint32(r.Staleness.Milliseconds())
	case history.Local:
		request.Read.Consistency = kvv1.Consistency_CONSISTENCY_LOCAL
	}
	return request
}

func sendRange(r *history.Read) call {
	request := rangeRequest(r)
	return func(ctx context.Context, conn *grpc.ClientConn) (history.Answer, error) {
		page, err := kvv1.NewKVServiceClient(conn).Range(ctx, request)
		a := history.NewAnswer(page.GetHeader())
		for _, kv := range page.GetKvs() {
			a.KVs = append(a.KVs, history.NewKV(kv))
		}
		return a, err
	}
}

func sendScan(r *history.Read) call {
	request := &kvv1.ScanRequest{Range: rangeRequest(r)}
	return func(ctx context.Context, conn *grpc.ClientConn) (history.Answer, error) {
		stream, err := kvv1.NewKVServiceClient(conn).Scan(ctx, request)
		if err != nil {
			return history.Answer{}, err
		}
		var a history.Answer
		for {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return a, nil
			}
			if err != nil {
				return history.Answer{}, err
			}
			kvs := a.KVs
			a = history.NewAnswer(part.GetHeader())
			a.KVs = kvs
			for _, kv := range part.GetKvs() {
				a.KVs = append(a.KVs, history.NewKV(kv))
			}
		}
	}
}
