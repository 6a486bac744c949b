package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// The kinds of failure that a caller may want to tell apart, with errors.Is.
var (
	// ErrInvalid is returned when a request breaks a rule.
	ErrInvalid = errors.New("invalid request")
	// ErrTooLarge is returned when a key, a value or a request is over a limit.
	ErrTooLarge = errors.New("too large")
	// ErrNotFound is returned by Get, and by a write that keeps a value or a
	// lease, when there is no such key.
	ErrNotFound = errors.New("key not found")
	// ErrCompacted is returned when a revision is not kept any more; the
	// metadata "oldest_revision" of the [Error] is the oldest one that is.
	ErrCompacted = errors.New("revision compacted")
	// ErrFutureRevision is returned when a revision does not exist yet.
	ErrFutureRevision = errors.New("revision does not exist yet")
	// ErrLeaseNotFound is returned when a lease does not exist or has ended. It
	// is also the cause of the context of a lock or lease that was lost.
	ErrLeaseNotFound = errors.New("lease not found")
	// ErrNoSpace is returned when the volume is nearly full: delete or compact.
	ErrNoSpace = errors.New("no space")
	// ErrQuotaExceeded is returned when a write would take a tenant over its quota of
	// keys or bytes: delete some. The metadata of the [Error] say how much there is.
	ErrQuotaExceeded = errors.New("quota exceeded")
	// ErrRateExceeded is returned when the caller's tenant had used its rate until the
	// context ended. It is also an ErrUnavailable.
	ErrRateExceeded = errors.New("rate exceeded")
	// ErrTenantNotFound is returned when there is no tenant of a name.
	ErrTenantNotFound = errors.New("tenant not found")
	// ErrUnknown is returned when a write may or may not have been applied.
	ErrUnknown = errors.New("outcome unknown")
	// ErrNoMaster is returned when there was no master until the context ended.
	// It is also an ErrUnavailable.
	ErrNoMaster = errors.New("no master")
	// ErrUnavailable is returned when no pod could serve until the context ended.
	// Nothing was applied.
	ErrUnavailable = errors.New("unavailable")
	// ErrResultCut is returned with the answer of a write that was applied, once,
	// but whose first answer was lost and is not remembered whole: keys and values
	// that it had (of gets, PrevKV) are missing. Read the keys to go on.
	ErrResultCut = errors.New("applied, but the result was lost")
	// ErrOtherCluster is returned for a revision of another cluster: a restored or a
	// new cluster has taken its place. Read the keys anew, with a new Client.
	ErrOtherCluster = errors.New("another cluster")
	// ErrUnauthenticated is returned when the certificate or the token that the
	// client sent proves nothing, or no more. Nothing was applied.
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrPermissionDenied is returned when the client's user may not do this. Nothing
	// was applied.
	ErrPermissionDenied = errors.New("permission denied")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("client closed")
)

// errorDomain is the domain of the ErrorInfo of every refusal by Baton.
const errorDomain = "baton"

// sentinels is the one table from reasons to what errors.Is recognises.
var sentinels = map[kvv1.ErrorReason][]error{
	kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST:    {ErrInvalid},
	kvv1.ErrorReason_ERROR_REASON_TOO_LARGE:          {ErrTooLarge},
	kvv1.ErrorReason_ERROR_REASON_COMPACTED:          {ErrCompacted},
	kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION:    {ErrFutureRevision},
	kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND:    {ErrLeaseNotFound},
	kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED: {ErrUnknown},
	kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN:    {ErrUnknown},
	kvv1.ErrorReason_ERROR_REASON_NO_MASTER:          {ErrNoMaster, ErrUnavailable},
	kvv1.ErrorReason_ERROR_REASON_OVERLOADED:         {ErrUnavailable},
	kvv1.ErrorReason_ERROR_REASON_NOT_READY:          {ErrUnavailable},
	kvv1.ErrorReason_ERROR_REASON_TOO_MANY:           {ErrUnavailable},
	kvv1.ErrorReason_ERROR_REASON_NO_SPACE:           {ErrNoSpace},
	kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND:      {ErrNotFound},
	kvv1.ErrorReason_ERROR_REASON_OTHER_CLUSTER:      {ErrOtherCluster},
	kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED:    {ErrUnauthenticated},
	kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS:     {ErrUnauthenticated},
	kvv1.ErrorReason_ERROR_REASON_LOGIN_FAILED:       {ErrUnauthenticated},
	kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED:  {ErrPermissionDenied},
	kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED:     {ErrQuotaExceeded},
	kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED:      {ErrRateExceeded, ErrUnavailable},
	kvv1.ErrorReason_ERROR_REASON_TENANT_NOT_FOUND:   {ErrTenantNotFound},
}

// Error is what every failed call returns, possibly wrapped. errors.Is finds
// the sentinels of this package in it, and context.DeadlineExceeded or
// context.Canceled when the caller's context ended the attempts.
type Error struct {
	// Code is the gRPC status code.
	Code codes.Code
	// Reason says which refusal it is; unspecified when the server gave none,
	// for example because it could not be reached.
	Reason kvv1.ErrorReason
	// Message is a sentence for a person.
	Message string
	// Metadata is what a program needs to react; see kvv1.ErrorReason.
	Metadata map[string]string

	cause error
}

func (e *Error) Error() string {
	return e.Message
}

// Is tells errors.Is which sentinels the error stands for.
func (e *Error) Is(target error) bool {
	for _, sentinel := range sentinels[e.Reason] {
		if sentinel == target {
			return true
		}
	}
	return e.Reason == kvv1.ErrorReason_ERROR_REASON_UNSPECIFIED &&
		e.Code == codes.Unavailable && target == ErrUnavailable
}

// Unwrap gives the context's error when that ended the attempts.
func (e *Error) Unwrap() error {
	return e.cause
}

// fromRPC turns what gRPC returned into an *Error; err is not nil.
func fromRPC(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	st := status.Convert(err)
	e := &Error{Code: st.Code(), Message: st.Message()}
	for _, detail := range st.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != errorDomain {
			continue
		}
		e.Reason = kvv1.ErrorReason(kvv1.ErrorReason_value["ERROR_REASON_"+info.GetReason()])
		e.Metadata = info.GetMetadata()
	}
	return e
}

// fromMessage turns a refusal inside an answer into an *Error.
func fromMessage(m *kvv1.Error) *Error {
	return &Error{
		Code: codes.Code(m.GetCode()), Reason: m.GetReason(),
		Message: m.GetMessage(), Metadata: m.GetMetadata(),
	}
}

// invalid is a refusal by the client itself, before anything is sent.
func invalid(format string, args ...any) *Error {
	return &Error{
		Code: codes.InvalidArgument, Reason: kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST,
		Message: fmt.Sprintf(format, args...),
	}
}

// closedError is ErrClosed with a status code.
func closedError() *Error {
	return &Error{Code: codes.Canceled, Message: ErrClosed.Error(), cause: ErrClosed}
}

// resultCut is ErrResultCut with a status code.
func resultCut() *Error {
	return &Error{
		Code:    codes.DataLoss,
		Message: "the write was applied, but its answer was lost, and the keys and values in it are not remembered: read them",
		cause:   ErrResultCut,
	}
}

// outcome says what is known of a failed attempt, and so what may follow.
type outcome int

const (
	// final: the server refused for a reason that a repetition does not change.
	final outcome = iota
	// notApplied: certainly not applied; repeat.
	notApplied
	// mayBeApplied: repeat a read, or a write with a request id.
	mayBeApplied
)

func (e *Error) outcome() outcome {
	switch e.Reason {
	case kvv1.ErrorReason_ERROR_REASON_NO_MASTER,
		kvv1.ErrorReason_ERROR_REASON_OVERLOADED,
		kvv1.ErrorReason_ERROR_REASON_NOT_READY,
		kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED,
		kvv1.ErrorReason_ERROR_REASON_TOO_MANY: // of one pod: another has room
		return notApplied
	case kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN,
		kvv1.ErrorReason_ERROR_REASON_CORRUPT: // on one pod's disk: another pod has it
		return mayBeApplied
	case kvv1.ErrorReason_ERROR_REASON_UNSPECIFIED:
		// Without a reason it was not Baton that refused, but something on the way
		// that failed (a stream was reset, an answer cut, a proxy full), perhaps
		// after the write was applied. Three codes come before a method begins.
		switch e.Code {
		case codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied:
			return final
		}
		return mayBeApplied
	}
	return final
}

// ended is what a call returns when its context ended, or is about to, before an
// answer: last is the latest failed attempt (may be nil), sent says that a write
// may be applied.
func ended(ctx context.Context, last *Error, sent bool) *Error {
	cause := ctx.Err()
	if cause == nil {
		cause = context.DeadlineExceeded
	}
	e := &Error{Code: status.FromContextError(cause).Code(), cause: cause}
	doing := "gave up"
	if cause == context.Canceled {
		doing = "was canceled"
	}
	switch {
	case sent:
		e.Reason = kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN
		e.Message = doing + " without an answer: the write may or may not have been applied"
	case last == nil:
		e.Message = doing + " without an answer"
	default:
		e.Message = doing + ": " + last.Message
		e.Reason, e.Metadata = last.Reason, last.Metadata
		if last.Is(ErrUnavailable) {
			e.Code = last.Code
		}
	}
	return e
}

// forgotten is the error of a write whose request id the store has forgotten
// after an attempt with an unknown outcome.
func forgotten(last *Error) *Error {
	e := unknownBecause(last)
	e.Message = "the write may or may not have been applied: its request id is older than the store remembers"
	return e
}

// unknownBecause is ErrUnknown for a write that cannot be repeated after last.
func unknownBecause(last *Error) *Error {
	return &Error{
		Code: last.Code, Reason: kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN,
		Message:  "the write may or may not have been applied: " + last.Message,
		Metadata: last.Metadata,
	}
}

// aboutRequest says that every pod at any time gives this refusal to a request
// that it has not applied under the same id: after it, an earlier attempt
// without an answer is known not to have been applied either.
func (e *Error) aboutRequest() bool {
	switch e.Reason {
	case kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST,
		kvv1.ErrorReason_ERROR_REASON_COMPACTED,
		kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION,
		kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND,
		kvv1.ErrorReason_ERROR_REASON_LEASE_EXISTS,
		kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED,
		kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND:
		return true
	case kvv1.ErrorReason_ERROR_REASON_TOO_LARGE:
		return !slices.Contains(changing, e.Metadata["field"])
	}
	return false
}

// changing are the fields that may be too large now, and were not when an earlier attempt
// came: how many keys a transaction looks at, or a lease has. When the master says so to
// another pod, the field is not said.
var changing = []string{"", "keys", "keys of the leases"}

// tooLarge is a refusal by the client itself.
func tooLarge(what string, limit, actual int) *Error {
	return &Error{
		Code: codes.InvalidArgument, Reason: kvv1.ErrorReason_ERROR_REASON_TOO_LARGE,
		Message:  fmt.Sprintf("the %s is %d bytes, the limit is %d", what, actual, limit),
		Metadata: map[string]string{"limit": strconv.Itoa(limit), "actual": strconv.Itoa(actual)},
	}
}
