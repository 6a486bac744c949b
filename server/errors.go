package server

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// errorDomain is ErrorInfo.domain of every error.
const errorDomain = "baton"

// reasonPrefix is cut from the names of reasons: in ErrorInfo they stand alone.
const reasonPrefix = "ERROR_REASON_"

func errInvalid(field, format string, args ...any) error {
	return &refusal.Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST,
		Message:  field + ": " + fmt.Sprintf(format, args...),
		Metadata: map[string]string{"field": field},
	}
}

func errTooLarge(field string, limit, actual int) error {
	return &refusal.Error{
		Reason:  kvv1.ErrorReason_ERROR_REASON_TOO_LARGE,
		Message: fmt.Sprintf("%s: %d, at most %d", field, actual, limit),
		Metadata: map[string]string{
			"field": field, "limit": strconv.Itoa(limit), "actual": strconv.Itoa(actual),
		},
	}
}

// ErrTooManyKeys refuses a transaction, or a batch, that would stop all other writes
// for too long.
var ErrTooManyKeys = &refusal.Error{
	Reason: kvv1.ErrorReason_ERROR_REASON_TOO_LARGE,
	Message: fmt.Sprintf("the compares, ranges and deletions of a transaction or a batch may look at %d keys together, "+
		"deleted ones that are still kept and those looked at twice included: split it, read before it, or delete outside of it", maxTxnKeys),
	Metadata: map[string]string{"field": "keys", "limit": strconv.Itoa(maxTxnKeys)},
}

// ErrAnswerTooLarge refuses an answer that no client should have to hold.
var ErrAnswerTooLarge = &refusal.Error{
	Reason:   kvv1.ErrorReason_ERROR_REASON_TOO_LARGE,
	Message:  fmt.Sprintf("the answer has more than %d bytes: ask for a part of it, with a limit", maxRangeBytes),
	Metadata: map[string]string{"field": "answer", "limit": strconv.Itoa(maxRangeBytes)},
}

func errNotReady(because string) error {
	return &refusal.Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_NOT_READY,
		Message:  "this pod is not ready: " + because,
		Metadata: map[string]string{"because": because},
	}
}

func errOtherCluster(asked, own string) error {
	return &refusal.Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_OTHER_CLUSTER,
		Message:  fmt.Sprintf("this is the cluster %s, with a history of its own; the request is for %s", own, asked),
		Metadata: map[string]string{"cluster_id": own},
	}
}

// errUnauthenticated never has what came in it: logs and clients show errors.
func errUnauthenticated(format string, args ...any) error {
	return &refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, Message: fmt.Sprintf(format, args...)}
}

// statusOf builds the status that a client gets for err. An error that already is
// a status came from another pod's server, and stays as it is.
func (c *core) statusOf(err error) error {
	if err == nil {
		return nil
	}
	e := refusal.Of(err)
	if e == nil {
		if s, ok := status.FromError(err); ok {
			return s.Err()
		}
		return status.Error(refusal.Code(err), err.Error())
	}
	s := status.New(refusal.Code(e), err.Error())
	info := &errdetails.ErrorInfo{Reason: reasonName(e.Reason), Domain: errorDomain, Metadata: c.hinted(e)}
	details := []protoadapt.MessageV1{info}
	if retry := RetryInfo(e); retry != nil {
		details = append(details, retry)
	}
	detailed, detailErr := s.WithDetails(details...)
	if detailErr != nil { // Only for code OK.
		return s.Err()
	}
	return detailed.Err()
}

// RetryInfo says when to repeat a call; nil: that is not known.
func RetryInfo(e *refusal.Error) *errdetails.RetryInfo {
	ms, err := strconv.ParseInt(e.Metadata[retryAfterKey], 10, 64)
	if err != nil {
		return nil
	}
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(ms) * time.Millisecond)}
}

// errorOf builds the error inside an answer that carries several results.
func (c *core) errorOf(err error) *kvv1.Error {
	answer := &kvv1.Error{Code: uint32(refusal.Code(err)), Message: err.Error()}
	if e := refusal.Of(err); e != nil {
		answer.Reason, answer.Metadata = e.Reason, c.hinted(e)
	}
	return answer
}

// hinted adds the master's client address where that helps.
func (c *core) hinted(e *refusal.Error) map[string]string {
	address := ""
	if e.HintsMaster() {
		address = c.masterAddress()
	}
	if address == "" {
		return e.Metadata
	}
	hinted := maps.Clone(e.Metadata)
	if hinted == nil {
		hinted = make(map[string]string, 1)
	}
	hinted["master"] = address
	return hinted
}

func reasonName(reason kvv1.ErrorReason) string {
	return strings.TrimPrefix(reason.String(), reasonPrefix)
}
