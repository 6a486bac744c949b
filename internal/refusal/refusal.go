package refusal

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/grpc/codes"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Error says why a request failed. Unless its reason says otherwise, nothing was
// changed.
type Error struct {
	// Reason is for programs.
	Reason kvv1.ErrorReason
	// Message is a sentence for a person.
	Message string
	// Metadata says what a program needs to react, for example
	// "oldest_revision"; see kvv1.ErrorReason.
	Metadata map[string]string
}

func (e *Error) Error() string { return e.Message }

// meaning of a reason.
type meaning struct {
	code codes.Code
	// everywhere: it follows from the request and the replicated state alone.
	everywhere bool
	// hintsMaster: the master may answer where this pod does not.
	hintsMaster bool
}

// meanings has every reason. UNAVAILABLE says that nothing was applied, and that
// another pod, or this one later, may do it: gRPC's own retries rely on that, so
// an unknown outcome must not have it. The results of commands are kept on disk
// with their codes: no code of a reason that holds everywhere may change.
var meanings = map[kvv1.ErrorReason]meaning{
	kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST:    {code: codes.InvalidArgument, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_TOO_LARGE:          {code: codes.InvalidArgument, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_COMPACTED:          {code: codes.OutOfRange, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION:    {code: codes.OutOfRange, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND:    {code: codes.NotFound, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_LEASE_EXISTS:       {code: codes.AlreadyExists, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED: {code: codes.FailedPrecondition, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND:      {code: codes.NotFound, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_NO_MASTER:          {code: codes.Unavailable, hintsMaster: true},
	kvv1.ErrorReason_ERROR_REASON_NOT_READY:          {code: codes.Unavailable, hintsMaster: true},
	kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN:    {code: codes.Unknown, hintsMaster: true},
	kvv1.ErrorReason_ERROR_REASON_TOO_MANY:           {code: codes.ResourceExhausted, hintsMaster: true},
	kvv1.ErrorReason_ERROR_REASON_OVERLOADED:         {code: codes.ResourceExhausted},
	kvv1.ErrorReason_ERROR_REASON_NO_SPACE:           {code: codes.ResourceExhausted},
	kvv1.ErrorReason_ERROR_REASON_CORRUPT:            {code: codes.DataLoss},
	kvv1.ErrorReason_ERROR_REASON_NO_HEIR:            {code: codes.FailedPrecondition},
	kvv1.ErrorReason_ERROR_REASON_OTHER_CLUSTER:      {code: codes.FailedPrecondition},
	kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED:    {code: codes.Unauthenticated, everywhere: true},

	kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS:         {code: codes.Unauthenticated, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED:      {code: codes.PermissionDenied, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_LOGIN_FAILED:           {code: codes.Unauthenticated},
	kvv1.ErrorReason_ERROR_REASON_AUTH_NOT_ENABLED:       {code: codes.FailedPrecondition},
	kvv1.ErrorReason_ERROR_REASON_ROOT_USER_MISSING:      {code: codes.FailedPrecondition, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_ROOT_ROLE_MISSING:      {code: codes.FailedPrecondition, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_ROOT_PROTECTED:         {code: codes.FailedPrecondition, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_USER_EXISTS:            {code: codes.AlreadyExists, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_USER_NOT_FOUND:         {code: codes.NotFound, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_ROLE_EXISTS:            {code: codes.AlreadyExists, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_ROLE_NOT_FOUND:         {code: codes.NotFound, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_ROLE_NOT_GRANTED:       {code: codes.FailedPrecondition, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_PERMISSION_NOT_GRANTED: {code: codes.FailedPrecondition, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_VERSION_TOO_OLD:        {code: codes.FailedPrecondition},
	kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED:         {code: codes.ResourceExhausted, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED:          {code: codes.ResourceExhausted},
	kvv1.ErrorReason_ERROR_REASON_TENANT_NOT_FOUND:       {code: codes.NotFound, everywhere: true},
	kvv1.ErrorReason_ERROR_REASON_TENANT_CONFLICT:        {code: codes.AlreadyExists, everywhere: true},
}

// Everywhere says that every replica refuses the same command in the same way, so
// that the refusal is the command's result. Any other error in applying a command
// is this pod's own.
func (e *Error) Everywhere() bool { return meanings[e.Reason].everywhere }

// HintsMaster says that the master may answer where this pod does not.
func (e *Error) HintsMaster() bool { return meanings[e.Reason].hintsMaster }

// Proto is e inside an answer that carries several results.
func (e *Error) Proto() *kvv1.Error {
	return &kvv1.Error{Code: uint32(Code(e)), Reason: e.Reason, Message: e.Message, Metadata: e.Metadata}
}

// In returns the refusal in a result; nil if there is none.
func In(result *kvv1.Result) *Error {
	e := result.GetError()
	if e == nil {
		return nil
	}
	return &Error{Reason: e.GetReason(), Message: e.GetMessage(), Metadata: e.GetMetadata()}
}

// Of returns the first Error that err is or wraps; nil if there is none, or if
// only a later version knows its reason.
func Of(err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		return nil
	}
	if _, known := meanings[e.Reason]; !known {
		return nil
	}
	return e
}

// Reason is 0 when no program could react to err by anything but its code.
func Reason(err error) kvv1.ErrorReason {
	if e := Of(err); e != nil {
		return e.Reason
	}
	return kvv1.ErrorReason_ERROR_REASON_UNSPECIFIED
}

// Code is the gRPC code of an error: Internal if nobody foresaw it.
func Code(err error) codes.Code {
	switch e := Of(err); {
	case e != nil:
		return meanings[e.Reason].code
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codes.Internal
}

// LeaseNotFound refuses what names a lease that is not there.
func LeaseNotFound(id int64) *Error {
	return &Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND,
		Message:  fmt.Sprintf("lease %d does not exist or has ended", id),
		Metadata: map[string]string{"lease": strconv.FormatInt(id, 10)},
	}
}
