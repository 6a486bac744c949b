package store

import (
	"errors"
	"fmt"
	"strconv"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Error is a refusal: nothing was changed.
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

// ErrClosed is returned when the store has been closed.
var ErrClosed = errors.New("store: closed")

// ErrCorrupt is wrapped by errors that tell of data on disk that fails its
// checksum or its invariants.
var ErrCorrupt = errors.New("store: corrupt data")

func errCompacted(revision, oldest int64) *Error {
	return &Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_COMPACTED,
		Message:  fmt.Sprintf("revision %d was compacted away; the oldest kept is %d", revision, oldest),
		Metadata: map[string]string{"oldest_revision": strconv.FormatInt(oldest, 10)},
	}
}

func errFuture(revision, newest int64) *Error {
	return &Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION,
		Message:  fmt.Sprintf("revision %d does not exist yet; the newest here is %d", revision, newest),
		Metadata: map[string]string{"revision": strconv.FormatInt(newest, 10)},
	}
}

func errLeaseNotFound(id int64) *Error {
	return &Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND,
		Message:  fmt.Sprintf("lease %d does not exist or has ended", id),
		Metadata: map[string]string{"lease": strconv.FormatInt(id, 10)},
	}
}

func errInvalid(field, format string, args ...any) *Error {
	return &Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST,
		Message:  fmt.Sprintf(format, args...),
		Metadata: map[string]string{"field": field},
	}
}

func errTooLarge(what string, limit, actual int) *Error {
	return &Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_TOO_LARGE,
		Message:  fmt.Sprintf("%s: %d, at most %d", what, actual, limit),
		Metadata: map[string]string{"limit": strconv.Itoa(limit), "actual": strconv.Itoa(actual)},
	}
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
