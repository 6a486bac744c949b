package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
)

// errElsewhere is the error of a pod that starts, clones or stops. An etcd in that
// state does not listen. To clients this is the same: the text tells them that the
// request was not sent, and they repeat it, even a write, at another pod.
var errElsewhere = status.Error(codes.Unavailable, "there is no connection available")

// errorOf is etcd's error for each reason. Clients compare the text, so a reason that
// etcd does not have gets the error that makes them do the right thing.
var errorOf = map[kvv1.ErrorReason]error{
	kvv1.ErrorReason_ERROR_REASON_TOO_LARGE:       rpctypes.ErrGRPCRequestTooLarge,
	kvv1.ErrorReason_ERROR_REASON_COMPACTED:       rpctypes.ErrGRPCCompacted,
	kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION: rpctypes.ErrGRPCFutureRev,
	kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND: rpctypes.ErrGRPCLeaseNotFound,
	kvv1.ErrorReason_ERROR_REASON_LEASE_EXISTS:    rpctypes.ErrGRPCLeaseExist,
	kvv1.ErrorReason_ERROR_REASON_NO_MASTER:       rpctypes.ErrGRPCNoLeader,
	// What etcd answers to a write that was under way when the leader was lost.
	kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN: rpctypes.ErrGRPCTimeoutDueToLeaderFail,
	kvv1.ErrorReason_ERROR_REASON_OVERLOADED:      rpctypes.ErrGRPCRequestTooManyRequests,
	kvv1.ErrorReason_ERROR_REASON_NOT_READY:       errElsewhere,
	kvv1.ErrorReason_ERROR_REASON_NO_SPACE:        rpctypes.ErrGRPCNoSpace,
	kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED:  rpctypes.ErrGRPCNoSpace,
	kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED:   rpctypes.ErrGRPCRequestTooManyRequests,
	kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND:   rpctypes.ErrGRPCKeyNotFound,
	kvv1.ErrorReason_ERROR_REASON_CORRUPT:         rpctypes.ErrGRPCCorrupt,
	kvv1.ErrorReason_ERROR_REASON_TOO_MANY:        rpctypes.ErrGRPCRequestTooManyRequests,
	// Clients that know a password get a new token for these two.
	kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED: rpctypes.ErrGRPCInvalidAuthToken,
	kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS:  rpctypes.ErrGRPCUserEmpty,

	kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED:      rpctypes.ErrGRPCPermissionDenied,
	kvv1.ErrorReason_ERROR_REASON_LOGIN_FAILED:           rpctypes.ErrGRPCAuthFailed,
	kvv1.ErrorReason_ERROR_REASON_AUTH_NOT_ENABLED:       rpctypes.ErrGRPCAuthNotEnabled,
	kvv1.ErrorReason_ERROR_REASON_ROOT_USER_MISSING:      rpctypes.ErrGRPCRootUserNotExist,
	kvv1.ErrorReason_ERROR_REASON_ROOT_ROLE_MISSING:      rpctypes.ErrGRPCRootRoleNotExist,
	kvv1.ErrorReason_ERROR_REASON_ROOT_PROTECTED:         rpctypes.ErrGRPCInvalidAuthMgmt,
	kvv1.ErrorReason_ERROR_REASON_USER_EXISTS:            rpctypes.ErrGRPCUserAlreadyExist,
	kvv1.ErrorReason_ERROR_REASON_USER_NOT_FOUND:         rpctypes.ErrGRPCUserNotFound,
	kvv1.ErrorReason_ERROR_REASON_ROLE_EXISTS:            rpctypes.ErrGRPCRoleAlreadyExist,
	kvv1.ErrorReason_ERROR_REASON_ROLE_NOT_FOUND:         rpctypes.ErrGRPCRoleNotFound,
	kvv1.ErrorReason_ERROR_REASON_ROLE_NOT_GRANTED:       rpctypes.ErrGRPCRoleNotGranted,
	kvv1.ErrorReason_ERROR_REASON_PERMISSION_NOT_GRANTED: rpctypes.ErrGRPCPermissionNotGranted,
}

// fail translates an error into etcd's.
func (p *pod) fail(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		err = context.Cause(ctx) // The pod stops, the client has gone, or its token has ended.
	}
	if errors.Is(err, server.ErrTooManyKeys) || errors.Is(err, server.ErrAnswerTooLarge) {
		return ours(codes.InvalidArgument, err.Error()) // etcd has no such limits, and no error to say how to keep them.
	}
	reason, code := refusal.Reason(err), refusal.Code(err)
	if known := errorOf[reason]; known != nil {
		return withRetry(known, refusal.Of(err))
	}
	switch {
	case reason == 0 && status.Code(err) != codes.Unknown:
		return err // It is etcd's already, or another pod's.
	case code == codes.DeadlineExceeded || ctx.Err() != nil:
		return rpctypes.ErrGRPCTimeout
	}
	return status.Error(code, "etcdserver: "+err.Error())
}

// withRetry adds when to repeat a call, if that is known.
func withRetry(known error, refused *refusal.Error) error {
	info := server.RetryInfo(refused)
	if info == nil {
		return known
	}
	detailed, err := status.Convert(known).WithDetails(info)
	if err != nil { // Only for code OK.
		return known
	}
	return detailed.Err()
}
