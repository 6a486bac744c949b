package history

import (
	"context"
	"errors"
	"time"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Call records an op that is one call of the Go client, for which the client has
// so much time, and returns the call's error.
func (r *Recorder) Call(ctx context.Context, op *Op, patience time.Duration, call func(context.Context) (Answer, error)) error {
	op.Attempts = 1
	r.Begin(op)
	defer r.End(op)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := call(ctx)
	switch {
	case err == nil:
		op.Answer, op.Outcome = answer, OK
		return nil
	case errors.Is(err, client.ErrUnknown):
	case errors.Is(err, client.ErrUnavailable), errors.Is(err, client.ErrLeaseNotFound):
		op.Outcome = Refused // "Nothing was applied."
	}
	op.Error = err.Error()
	return err
}

// NewAnswer is what a header says.
func NewAnswer(h *kvv1.ResponseHeader) Answer {
	return Answer{Revision: h.GetRevision(), Pod: h.GetPod(), Replayed: h.GetReplayed(), Succeeded: true}
}

// NewSample is what a pod says of itself, asked for this pod only.
func NewSample(status *kvv1.StatusResponse) Sample {
	own := status.GetPods()[0]
	return Sample{
		Cluster: status.GetClusterId(), Pod: own.GetName(), Member: own.GetMemberId(),
		Master: own.GetRole() == kvv1.PodStatus_ROLE_MASTER, Term: own.GetTerm(), Revision: own.GetRevision(),
	}
}
