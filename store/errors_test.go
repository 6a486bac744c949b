package store

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Results are kept on disk and must be the same on pods of all versions: their
// codes may not change.
func TestRefusedResultsHaveTheseCodes(t *testing.T) {
	a := &applier{}
	for _, test := range []struct {
		err  *refusal.Error
		code codes.Code
	}{
		{errInvalid("f", "m"), codes.InvalidArgument},
		{errTooLarge("m", 1, 2), codes.InvalidArgument},
		{errCompacted(1, 2), codes.OutOfRange},
		{errFuture(2, 1), codes.OutOfRange},
		{refusal.LeaseNotFound(1), codes.NotFound},
		{errRequestExpired(1), codes.FailedPrecondition},
		{&refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND}, codes.NotFound},
		{&refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_LEASE_EXISTS}, codes.AlreadyExists},
	} {
		result, err := a.refusal(nil, test.err)
		if err != nil {
			t.Fatal(err)
		}
		if e := result.GetError(); codes.Code(e.GetCode()) != test.code || e.GetReason() != test.err.Reason || e.GetMessage() != test.err.Message {
			t.Errorf("%v is the result %v, want code %v", test.err, e, test.code)
		}
	}
	// What only this pod says ends the entry.
	for _, err := range []error{ErrClosed, ErrCorrupt, corrupt("a record")} {
		if result, got := a.refusal(nil, err); got != err || result != nil {
			t.Errorf("%v became the result %v", err, result)
		}
	}
}
