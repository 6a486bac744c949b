package propose

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// Pods of different versions forward to each other: what an error looks like
// between them, and what it is at the other end, may not change.
func TestForwardedErrorsBothWays(t *testing.T) {
	for _, test := range []struct {
		err    error
		code   codes.Code
		reason kvv1.ErrorReason
		arrive error
	}{
		{errNotProposed, codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_NO_MASTER, errNotProposed},
		{replication.ErrNoMaster, codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_NO_MASTER, errNotProposed},
		{replication.ErrClosed, codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_NO_MASTER, errNotProposed},
		{replication.ErrOverloaded, codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_OVERLOADED, replication.ErrOverloaded},
		{replication.ErrTooLarge, codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_TOO_LARGE, replication.ErrTooLarge},
		{replication.ErrNotReady, codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_NOT_READY, replication.ErrNotReady},
		{replication.ErrUnknown, codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, replication.ErrUnknown},
		{errors.New("a surprise"), codes.InvalidArgument, kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, replication.ErrUnknown},
		{replication.ErrNoSuccessor, codes.InvalidArgument, kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, replication.ErrUnknown},
	} {
		for _, err := range []error{test.err, fmt.Errorf("%w: why", test.err)} {
			sent := toWire(err)
			if codes.Code(sent.Code) != test.code || sent.Reason != test.reason || sent.Message != err.Error() || sent.Metadata != nil {
				t.Errorf("%v is sent as %v", err, sent)
			}
			arrived := fromWire(sent)
			if !errors.Is(arrived, test.arrive) || arrived.Error() != test.arrive.Error()+": "+err.Error() {
				t.Errorf("%v arrives as %v, want %v", err, arrived, test.arrive)
			}
		}
	}
	for reason := range kvv1.ErrorReason_name {
		want := replication.ErrUnknown
		switch kvv1.ErrorReason(reason) {
		case kvv1.ErrorReason_ERROR_REASON_NO_MASTER:
			want = errNotProposed
		case kvv1.ErrorReason_ERROR_REASON_OVERLOADED:
			want = replication.ErrOverloaded
		case kvv1.ErrorReason_ERROR_REASON_TOO_LARGE:
			want = replication.ErrTooLarge
		case kvv1.ErrorReason_ERROR_REASON_NOT_READY:
			want = replication.ErrNotReady
		case kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST, kvv1.ErrorReason_ERROR_REASON_NO_SPACE, kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED:
			refused := &refusal.Error{Reason: kvv1.ErrorReason(reason), Message: "m", Metadata: map[string]string{"field": "key"}}
			if got := fromWire(toWire(fmt.Errorf("%w", refused))); !reflect.DeepEqual(got, refused) {
				t.Errorf("%v arrives as %v", refused, got)
			}
			continue
		}
		if got := fromWire(&kvv1.Error{Reason: kvv1.ErrorReason(reason)}); !errors.Is(got, want) {
			t.Errorf("reason %d arrives as %v, want %v", reason, got, want)
		}
	}
}

// A stream that has ended takes nothing from the queue: the first command that it
// took would be lost with it, and its outcome unknown.
func TestAnEndedStreamTakesNothing(t *testing.T) {
	f := &forwards{queue: newQueue(), sent: map[uint64]*Pending{}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if err := f.queue.push(&Pending{done: make(chan struct{}, 1)}); err != nil {
			t.Fatal(err)
		}
		if taken := f.Next(ctx, nil); len(taken) > 0 {
			t.Fatalf("it took %d", len(taken))
		}
	}
}
