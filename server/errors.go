package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

// errorDomain is ErrorInfo.domain of every error.
const errorDomain = "baton"

// reasonPrefix is cut from the names of reasons: in ErrorInfo they stand alone.
const reasonPrefix = "ERROR_REASON_"

// codeOf is the gRPC code of each reason. UNAVAILABLE says that nothing was
// applied and that another pod or a later moment may do: gRPC's own retries
// rely on that, so an unknown outcome must not have it.
var codeOf = map[kvv1.ErrorReason]codes.Code{
	kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST:    codes.InvalidArgument,
	kvv1.ErrorReason_ERROR_REASON_TOO_LARGE:          codes.InvalidArgument,
	kvv1.ErrorReason_ERROR_REASON_COMPACTED:          codes.OutOfRange,
	kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION:    codes.OutOfRange,
	kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND:    codes.NotFound,
	kvv1.ErrorReason_ERROR_REASON_LEASE_EXISTS:       codes.AlreadyExists,
	kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED: codes.FailedPrecondition,
	kvv1.ErrorReason_ERROR_REASON_NO_MASTER:          codes.Unavailable,
	kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN:    codes.Unknown,
	kvv1.ErrorReason_ERROR_REASON_OVERLOADED:         codes.ResourceExhausted,
	kvv1.ErrorReason_ERROR_REASON_NOT_READY:          codes.Unavailable,
	kvv1.ErrorReason_ERROR_REASON_NO_SPACE:           codes.ResourceExhausted,
	kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND:      codes.NotFound,
	kvv1.ErrorReason_ERROR_REASON_CORRUPT:            codes.DataLoss,
	kvv1.ErrorReason_ERROR_REASON_TOO_MANY:           codes.ResourceExhausted,
	kvv1.ErrorReason_ERROR_REASON_NO_HEIR:            codes.FailedPrecondition,
	kvv1.ErrorReason_ERROR_REASON_OTHER_CLUSTER:      codes.FailedPrecondition,
}

// sentinels are the errors of the parts below that programs can react to.
// The first that matches counts: an unknown outcome may wrap a deadline.
var sentinels = []struct {
	err    error
	reason kvv1.ErrorReason
}{
	{replication.ErrUnknown, kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN},
	{replication.ErrNoMaster, kvv1.ErrorReason_ERROR_REASON_NO_MASTER},
	{replication.ErrOverloaded, kvv1.ErrorReason_ERROR_REASON_OVERLOADED},
	{replication.ErrTooLarge, kvv1.ErrorReason_ERROR_REASON_TOO_LARGE},
	{replication.ErrDiffers, kvv1.ErrorReason_ERROR_REASON_NOT_READY},
	{replication.ErrNoHeir, kvv1.ErrorReason_ERROR_REASON_NO_HEIR},
	{replication.ErrNotReady, kvv1.ErrorReason_ERROR_REASON_NOT_READY},
	{replication.ErrClosed, kvv1.ErrorReason_ERROR_REASON_NOT_READY},
	{store.ErrClosed, kvv1.ErrorReason_ERROR_REASON_NOT_READY},
	{store.ErrCorrupt, kvv1.ErrorReason_ERROR_REASON_CORRUPT},
}

// refusal is the server's own typed error.
type refusal struct {
	reason   kvv1.ErrorReason
	message  string
	metadata map[string]string
}

func (r *refusal) Error() string { return r.message }

func errInvalid(field, format string, args ...any) error {
	return &refusal{
		reason:   kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST,
		message:  field + ": " + fmt.Sprintf(format, args...),
		metadata: map[string]string{"field": field},
	}
}

func errTooLarge(field string, limit, actual int) error {
	return &refusal{
		reason:  kvv1.ErrorReason_ERROR_REASON_TOO_LARGE,
		message: fmt.Sprintf("%s: %d, at most %d", field, actual, limit),
		metadata: map[string]string{
			"field": field, "limit": strconv.Itoa(limit), "actual": strconv.Itoa(actual),
		},
	}
}

func errTooMany(what string, limit int) error {
	return &refusal{
		reason:   kvv1.ErrorReason_ERROR_REASON_TOO_MANY,
		message:  fmt.Sprintf("this pod has %d %s, its limit: use another pod", limit, what),
		metadata: map[string]string{"limit": strconv.Itoa(limit)},
	}
}

func errNotReady(because string) error {
	return &refusal{
		reason:   kvv1.ErrorReason_ERROR_REASON_NOT_READY,
		message:  "this pod is not ready: " + because,
		metadata: map[string]string{"because": because},
	}
}

func errLeaseNotFound(id int64) error {
	return &refusal{
		reason:   kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND,
		message:  fmt.Sprintf("lease %d does not exist or has ended", id),
		metadata: map[string]string{"lease": strconv.FormatInt(id, 10)},
	}
}

func errOtherCluster(asked, own string) error {
	return &refusal{
		reason:   kvv1.ErrorReason_ERROR_REASON_OTHER_CLUSTER,
		message:  fmt.Sprintf("this is the cluster %s, with a history of its own; the request is for %s", own, asked),
		metadata: map[string]string{"cluster_id": own},
	}
}

// refused returns the refusal in a result, or nil.
func refused(result *kvv1.Result) error {
	e := result.GetError()
	if e == nil {
		return nil
	}
	return &refusal{reason: e.GetReason(), message: e.GetMessage(), metadata: e.GetMetadata()}
}

// describe takes an error apart. The reason is 0 when no program could react
// to it by anything but the code.
func describe(err error) (codes.Code, kvv1.ErrorReason, map[string]string) {
	var own *refusal
	var stores *store.Error
	reason, metadata := kvv1.ErrorReason_ERROR_REASON_UNSPECIFIED, map[string]string(nil)
	switch {
	case errors.As(err, &own):
		reason, metadata = own.reason, own.metadata
	case errors.As(err, &stores):
		reason, metadata = stores.Reason, stores.Metadata
	default:
		for _, s := range sentinels {
			if errors.Is(err, s.err) {
				reason = s.reason
				break
			}
		}
	}
	if code, ok := codeOf[reason]; ok {
		return code, reason, metadata
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded, 0, nil
	case errors.Is(err, context.Canceled):
		return codes.Canceled, 0, nil
	}
	return codes.Internal, 0, nil
}

// hintsMaster: the caller would do better at the master.
func hintsMaster(reason kvv1.ErrorReason) bool {
	switch reason {
	case kvv1.ErrorReason_ERROR_REASON_NO_MASTER, kvv1.ErrorReason_ERROR_REASON_NOT_READY,
		kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, kvv1.ErrorReason_ERROR_REASON_TOO_MANY:
		return true
	}
	return false
}

// statusOf is the error as it leaves a method. An error that is a status
// already came from another pod's server, and stays as it is.
func (c *core) statusOf(err error) error {
	if err == nil {
		return nil
	}
	code, reason, metadata := describe(err)
	if reason == 0 {
		if s, ok := status.FromError(err); ok {
			return s.Err()
		}
		return status.Error(code, err.Error())
	}
	s := status.New(code, err.Error())
	info := &errdetails.ErrorInfo{Reason: reasonName(reason), Domain: errorDomain, Metadata: c.hinted(reason, metadata)}
	detailed, detailErr := s.WithDetails(info)
	if detailErr != nil { // Only for code OK.
		return s.Err()
	}
	return detailed.Err()
}

// errorOf is the error inside an answer that carries several.
func (c *core) errorOf(err error) *kvv1.Error {
	code, reason, metadata := describe(err)
	return &kvv1.Error{Code: uint32(code), Reason: reason, Message: err.Error(), Metadata: c.hinted(reason, metadata)}
}

// hinted adds the master's client address where that helps.
func (c *core) hinted(reason kvv1.ErrorReason, metadata map[string]string) map[string]string {
	if !hintsMaster(reason) {
		return metadata
	}
	address := c.masterAddress()
	if address == "" {
		return metadata
	}
	hinted := maps.Clone(metadata)
	if hinted == nil {
		hinted = make(map[string]string, 1)
	}
	hinted["master"] = address
	return hinted
}

func reasonName(reason kvv1.ErrorReason) string {
	return strings.TrimPrefix(reason.String(), reasonPrefix)
}
