package replication

import (
	"errors"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

var (
	// ErrNoMaster is returned when no master is known or reached in time.
	// Nothing was applied.
	ErrNoMaster = refused(kvv1.ErrorReason_ERROR_REASON_NO_MASTER, "no master")
	// ErrUnknown is returned when the master was lost, or the caller's context
	// ended, with the write in flight: it may or may not be applied.
	ErrUnknown = refused(kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "the outcome of the write is unknown")
	// ErrOverloaded is returned at once when the queue of writes is full.
	// Nothing was applied.
	ErrOverloaded = refused(kvv1.ErrorReason_ERROR_REASON_OVERLOADED, "too many writes are waiting")
	// ErrTooLarge is returned for a command over MaxCommandBytes. Nothing was applied.
	ErrTooLarge = refused(kvv1.ErrorReason_ERROR_REASON_TOO_LARGE, "the command is too large")
	// ErrNotReady is returned when the node was not started. Nothing was applied.
	ErrNotReady = refused(kvv1.ErrorReason_ERROR_REASON_NOT_READY, "not ready")
	// ErrClosed is returned after Close. Nothing was applied.
	ErrClosed = refused(kvv1.ErrorReason_ERROR_REASON_NOT_READY, "closed")
	// ErrDiffers is returned by reads when this pod has applied something else
	// than the master. Another pod may answer.
	ErrDiffers = refused(kvv1.ErrorReason_ERROR_REASON_NOT_READY, "this pod's data differs")
	// ErrNoSuccessor is returned when nobody can take the baton, or not now. It stays
	// where it is.
	ErrNoSuccessor = refused(kvv1.ErrorReason_ERROR_REASON_NO_HEIR, "there is no successor")
	// ErrRetired is what Failed gives when this member was removed, or its data
	// is of no more use: a restart begins as a new member.
	ErrRetired = errors.New("this member is retired")
	// ErrDamaged is returned by Start when the log or the votes on disk are not
	// what was written there.
	ErrDamaged = errors.New("the log is damaged")
	// ErrLocked is returned by Open when another process holds the directory.
	ErrLocked = errors.New("the data directory is in use by another process")
	// ErrForeign is returned by Open when the directory belongs to another pod,
	// was written by a newer version, or does not say whose it is in a way that a
	// pod writes.
	ErrForeign = errors.New("the data directory cannot be used by this pod")
	// ErrRecoveryRefused is returned when a recovery is not needed, or would lose
	// what another pod has.
	ErrRecoveryRefused = errors.New("no recovery")
)

func refused(reason kvv1.ErrorReason, message string) error {
	return &refusal.Error{Reason: reason, Message: message}
}
