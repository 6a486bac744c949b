package server

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// info takes a status apart as a client does.
func info(err error) (codes.Code, string, map[string]string) {
	s := status.Convert(err)
	for _, detail := range s.Details() {
		if i, ok := detail.(*errdetails.ErrorInfo); ok && i.GetDomain() == errorDomain {
			return s.Code(), i.GetReason(), i.GetMetadata()
		}
	}
	return s.Code(), "", nil
}

func wantReason(t *testing.T, err error, want kvv1.ErrorReason) map[string]string {
	t.Helper()
	code, reason, metadata := info(err)
	if reason != reasonName(want) || code != refusal.Code(&refusal.Error{Reason: want}) {
		t.Fatalf("got %v %s (%v), want %v", code, reason, err, want)
	}
	return metadata
}

func testCore() *core {
	return New(Options{Name: "kv-0"}).core
}

// Every reason comes back from the wire as it went in, wrapped or inside an answer.
func TestEveryReasonBothWays(t *testing.T) {
	c := testCore()
	for number := range kvv1.ErrorReason_name {
		reason := kvv1.ErrorReason(number)
		if reason == 0 {
			continue
		}
		refused := &refusal.Error{Reason: reason, Message: "m", Metadata: map[string]string{"a": "b"}}
		if got := wantReason(t, c.statusOf(fmt.Errorf("wrapped: %w", refused)), reason); got["a"] != "b" {
			t.Errorf("%v: metadata %v", reason, got)
		}
		e := c.errorOf(refused)
		if e.GetReason() != reason || codes.Code(e.GetCode()) != refusal.Code(refused) || e.GetMetadata()["a"] != "b" {
			t.Errorf("%v inside an answer: %v", reason, e)
		}
	}
}

func TestErrorsWithoutReason(t *testing.T) {
	c := testCore()
	for _, test := range []struct {
		err  error
		want codes.Code
	}{
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{errors.New("a surprise"), codes.Internal},
		{status.Error(codes.FailedPrecondition, "from another pod"), codes.FailedPrecondition},
	} {
		if code, reason, _ := info(c.statusOf(test.err)); code != test.want || reason != "" {
			t.Errorf("%v: %v %q, want %v", test.err, code, reason, test.want)
		}
	}
	if c.statusOf(nil) != nil {
		t.Error("no error became one")
	}
}

// What fails after a command was handed to the log, in a way that nobody foresaw,
// must not read as a refusal: the command may be applied.
func TestASurpriseAfterProposingIsAnUnknownOutcome(t *testing.T) {
	p := newPod(t, "kv-0").use()
	for name, propose := range map[string]func(context.Context, *kvv1.Command) (*kvv1.Result, error){
		"an error": func(context.Context, *kvv1.Command) (*kvv1.Result, error) {
			return nil, errors.New("a surprise")
		},
		"another's result": func(context.Context, *kvv1.Command) (*kvv1.Result, error) {
			return &kvv1.Result{Result: &kvv1.Result_Compact{Compact: &kvv1.CompactResponse{}}}, nil
		},
		"no result": func(context.Context, *kvv1.Command) (*kvv1.Result, error) { return nil, nil },
	} {
		p.log.propose = propose
		_, err := p.kv().Put(within5s(t), &kvv1.PutRequest{Key: []byte("k")})
		t.Log(name)
		wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN)
		_, err = kvv1.NewLeaseServiceClient(p.conn).Grant(within5s(t), &kvv1.GrantRequest{TtlSeconds: 1})
		wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN)
	}
}

func TestARefusedHandOverHasAReason(t *testing.T) {
	p := newPod(t, "kv-0").use()
	_, err := kvv1.NewMaintenanceServiceClient(p.conn).HandOver(within5s(t), &kvv1.HandOverRequest{To: "nobody"})
	wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_NO_HEIR)
	// One whose answer was lost may be done: not NO_MASTER, which is repeated.
	_, err = kvv1.NewMaintenanceServiceClient(p.conn).HandOver(within5s(t), &kvv1.HandOverRequest{To: "lost"})
	wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN)
}

// The status of another pod passes through with its reason.
func TestForwardedReason(t *testing.T) {
	c := testCore()
	first := c.statusOf(refusal.LeaseNotFound(3))
	if got := wantReason(t, c.statusOf(first), kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND); got["lease"] != "3" {
		t.Error(got)
	}
	wantReason(t, c.statusOf(fromMaster(status.Error(codes.Unavailable, "connection refused"))), kvv1.ErrorReason_ERROR_REASON_NO_MASTER)
}

// The master's client address is a hint, from what the peerStatuses have said.
func TestMasterHint(t *testing.T) {
	c := testCore()
	var log Log = &fakeLog{name: "kv-0", master: "kv-1"}
	c.log.Store(&log)
	c.peerStatuses.note(map[string]*kvv1.PodStatus{"kv-1": {ClientAddress: "kv-1.kv:7400"}})
	c.peerStatuses.note(nil) // It does not answer any more.
	metadata := wantReason(t, c.statusOf(replication.ErrUnknown), kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN)
	if metadata["master"] != "kv-1.kv:7400" {
		t.Errorf("hint %v", metadata)
	}
}
