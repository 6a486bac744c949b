package server

import (
	"context"

	"google.golang.org/grpc"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Batch answers each list when its outcome is known, in any order.
func (s *kvService) Batch(both grpc.BidiStreamingServer[kvv1.BatchRequest, kvv1.BatchResponse]) error {
	p := streamWorkers[kvv1.BatchRequest, kvv1.BatchResponse]{both: both, limit: maxBatchesInFlight, receivers: &s.core.outliving, answer: s.answerBatch}
	return p.run(both.Context())
}

// answerBatch fails when the stream's caller is nobody any more, who logs in and goes on
// with another stream. Otherwise the error of one list does not touch the others.
func (s *kvService) answerBatch(ctx context.Context, req *kvv1.BatchRequest) (*kvv1.BatchResponse, error) {
	response := &kvv1.BatchResponse{Id: req.GetId()}
	result, err := s.batch(ctx, req.GetBatch())
	switch refusal.Reason(err) {
	case kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS:
		return nil, err
	}
	if err != nil {
		response.Outcome = &kvv1.BatchResponse_Error{Error: s.core.errorOf(err)}
	} else {
		response.Outcome = &kvv1.BatchResponse_Result{Result: result}
	}
	return response, nil
}

func (s *kvService) batch(ctx context.Context, batch *kvv1.WriteBatch) (*kvv1.WriteBatchResult, error) {
	if err := checkBatch(batch); err != nil {
		return nil, err
	}
	if err := s.core.begin(ctx); err != nil {
		return nil, err
	}
	return propose(ctx, s.core, &kvv1.Command{Command: &kvv1.Command_Batch{Batch: batch}}, (*kvv1.Result).GetBatch)
}
