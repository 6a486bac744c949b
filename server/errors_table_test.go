package server

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/quota"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

// Clients decide by code and reason whether to repeat a request and where: none
// may change.
func TestClientsGetTheseCodesAndReasons(t *testing.T) {
	refusedWith := func(reason kvv1.ErrorReason) error {
		return refusal.In(&kvv1.Result{Result: &kvv1.Result_Error{Error: &kvv1.Error{Reason: reason, Message: "m"}}})
	}
	wrap := func(err error) error { return fmt.Errorf("%w: %w", err, context.DeadlineExceeded) }
	for _, test := range []struct {
		err    error
		code   codes.Code
		reason string
	}{
		{errInvalid("key", "is empty"), codes.InvalidArgument, "INVALID_REQUEST"},
		{errTooLarge("key", 1, 2), codes.InvalidArgument, "TOO_LARGE"},
		{quota.New("watches", 1).Take("a", 1), codes.ResourceExhausted, "TOO_MANY"},
		{errNotReady("it is starting"), codes.Unavailable, "NOT_READY"},
		{refusal.LeaseNotFound(1), codes.NotFound, "LEASE_NOT_FOUND"},
		{errOtherCluster("a", "b"), codes.FailedPrecondition, "OTHER_CLUSTER"},
		{errUnauthenticated("m"), codes.Unauthenticated, "UNAUTHENTICATED"},
		{errStopping, codes.Unavailable, "NOT_READY"},
		{errMasterSilent, codes.Unavailable, "NO_MASTER"},
		{fromMaster(status.Error(codes.Unavailable, "refused")), codes.Unavailable, "NO_MASTER"},

		{refusedWith(kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST), codes.InvalidArgument, "INVALID_REQUEST"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_TOO_LARGE), codes.InvalidArgument, "TOO_LARGE"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_COMPACTED), codes.OutOfRange, "COMPACTED"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION), codes.OutOfRange, "FUTURE_REVISION"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND), codes.NotFound, "LEASE_NOT_FOUND"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_LEASE_EXISTS), codes.AlreadyExists, "LEASE_EXISTS"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED), codes.FailedPrecondition, "REQUEST_ID_EXPIRED"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND), codes.NotFound, "KEY_NOT_FOUND"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN), codes.Unknown, "OUTCOME_UNKNOWN"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_NO_SPACE), codes.ResourceExhausted, "NO_SPACE"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS), codes.Unauthenticated, "NO_CREDENTIALS"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED), codes.PermissionDenied, "PERMISSION_DENIED"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_ROOT_USER_MISSING), codes.FailedPrecondition, "ROOT_USER_MISSING"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_ROOT_ROLE_MISSING), codes.FailedPrecondition, "ROOT_ROLE_MISSING"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_ROOT_PROTECTED), codes.FailedPrecondition, "ROOT_PROTECTED"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_USER_EXISTS), codes.AlreadyExists, "USER_EXISTS"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_USER_NOT_FOUND), codes.NotFound, "USER_NOT_FOUND"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_ROLE_EXISTS), codes.AlreadyExists, "ROLE_EXISTS"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_ROLE_NOT_FOUND), codes.NotFound, "ROLE_NOT_FOUND"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_ROLE_NOT_GRANTED), codes.FailedPrecondition, "ROLE_NOT_GRANTED"},
		{refusedWith(kvv1.ErrorReason_ERROR_REASON_PERMISSION_NOT_GRANTED), codes.FailedPrecondition, "PERMISSION_NOT_GRANTED"},
		{errLoginFailed, codes.Unauthenticated, "LOGIN_FAILED"},
		{errAuthNotEnabled, codes.FailedPrecondition, "AUTH_NOT_ENABLED"},
		{errTooManyFailures, codes.ResourceExhausted, "OVERLOADED"},
		{refusedWith(kvv1.ErrorReason(99)), codes.Internal, ""},

		{replication.ErrUnknown, codes.Unknown, "OUTCOME_UNKNOWN"},
		{replication.ErrNoMaster, codes.Unavailable, "NO_MASTER"},
		{replication.ErrOverloaded, codes.ResourceExhausted, "OVERLOADED"},
		{replication.ErrTooLarge, codes.InvalidArgument, "TOO_LARGE"},
		{replication.ErrDiffers, codes.Unavailable, "NOT_READY"},
		{replication.ErrNoSuccessor, codes.FailedPrecondition, "NO_HEIR"},
		{replication.ErrNotReady, codes.Unavailable, "NOT_READY"},
		{replication.ErrClosed, codes.Unavailable, "NOT_READY"},
		{replication.ErrRetired, codes.Internal, ""},
		{replication.ErrDamaged, codes.Internal, ""},
		{replication.ErrLocked, codes.Internal, ""},
		{replication.ErrForeign, codes.Internal, ""},
		{store.ErrClosed, codes.Unavailable, "NOT_READY"},
		{store.ErrCorrupt, codes.DataLoss, "CORRUPT"},

		{wrap(replication.ErrUnknown), codes.Unknown, "OUTCOME_UNKNOWN"},
		{wrap(replication.ErrNoMaster), codes.Unavailable, "NO_MASTER"},
		{fmt.Errorf("%w: %w", replication.ErrUnknown, store.ErrClosed), codes.Unknown, "OUTCOME_UNKNOWN"},
		{wrap(errors.New("not applied")), codes.DeadlineExceeded, ""},
		{context.DeadlineExceeded, codes.DeadlineExceeded, ""},
		{context.Canceled, codes.Canceled, ""},
		{errors.New("a surprise"), codes.Internal, ""},
		{status.Error(codes.Aborted, "from another pod"), codes.Aborted, ""},
	} {
		if code, reason, _ := info(testCore().statusOf(test.err)); code != test.code || reason != test.reason {
			t.Errorf("%v: %v %q, want %v %q", test.err, code, reason, test.code, test.reason)
		}
	}
}
