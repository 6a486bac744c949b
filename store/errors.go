package store

import (
	"fmt"
	"strconv"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// ErrClosed is returned when the store has been closed.
var ErrClosed error = &refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_NOT_READY, Message: "store: closed"}

// ErrCorrupt is wrapped by errors that tell of data on disk that fails its
// checksum or its invariants.
var ErrCorrupt error = &refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_CORRUPT, Message: "store: corrupt data"}

func errCompacted(revision, oldest int64) *refusal.Error {
	return &refusal.Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_COMPACTED,
		Message:  fmt.Sprintf("revision %d was compacted away; the oldest kept is %d", revision, oldest),
		Metadata: map[string]string{"oldest_revision": strconv.FormatInt(oldest, 10)},
	}
}

func errFuture(revision, newest int64) *refusal.Error {
	return &refusal.Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION,
		Message:  fmt.Sprintf("revision %d does not exist yet; the newest here is %d", revision, newest),
		Metadata: map[string]string{"revision": strconv.FormatInt(newest, 10)},
	}
}

func errInvalid(field, format string, args ...any) *refusal.Error {
	return &refusal.Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST,
		Message:  fmt.Sprintf(format, args...),
		Metadata: map[string]string{"field": field},
	}
}

func errTooLarge(what string, limit, actual int) *refusal.Error {
	return &refusal.Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_TOO_LARGE,
		Message:  fmt.Sprintf("%s: %d, at most %d", what, actual, limit),
		Metadata: map[string]string{"limit": strconv.Itoa(limit), "actual": strconv.Itoa(actual)},
	}
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
