package client_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/client/clienttest"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

var (
	errBroken  = status.Error(codes.Unavailable, "the connection broke")
	errUnknown = clienttest.Error(codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "the master was lost")
)

// times gives an error so often, and nil from then on.
func times(n int32, method string, err error) func(int, string) error {
	return func(_ int, called string) error {
		if called == method && atomic.AddInt32(&n, -1) >= 0 {
			return err
		}
		return nil
	}
}

// Scenario: S38, S39
func TestWriteWithALostAnswerIsAppliedOnce(t *testing.T) {
	lost := []error{errBroken, errUnknown}
	for _, code := range withoutVerdict {
		lost = append(lost, status.Error(code, "stream terminated by RST_STREAM"))
	}
	for _, lost := range lost {
		fake, c := cluster(t, 3)
		fake.After(times(4, "Put", lost))
		ctx := within(t, 5*time.Second)
		response, err := c.Put(ctx, "a", nil)
		if err != nil || !response.GetHeader().GetReplayed() {
			t.Fatalf("after %v: %v %v", lost, response, err)
		}
		if kv, err := c.Get(ctx, "a"); err != nil || kv.GetVersion() != 1 {
			t.Fatalf("applied %d times, %v", kv.GetVersion(), err)
		}
	}
}

// A write that is too large when it is repeated, because of what is there by now, may have
// been applied the first time; one that is by itself was not.
func TestAWriteThatIsTooLargeByNow(t *testing.T) {
	for _, test := range []struct {
		field   string
		unknown bool
	}{{"keys", true}, {"keys of the leases", true}, {"", true}, {"value", false}} {
		fake, c := cluster(t, 1)
		var calls atomic.Int32
		fake.Before(func(_ int, method string) error {
			if method == "Put" && calls.Add(1) == 2 {
				return clienttest.Error(codes.InvalidArgument, kvv1.ErrorReason_ERROR_REASON_TOO_LARGE, "too large", "field", test.field)
			}
			return nil
		})
		fake.After(times(1, "Put", errBroken))
		_, err := c.Put(within(t, 5*time.Second), "a", nil)
		if errors.Is(err, client.ErrUnknown) != test.unknown || errors.Is(err, client.ErrTooLarge) == test.unknown {
			t.Errorf("%q: %v", test.field, err)
		}
	}
}

// The first read of what is damaged on one pod's disk is answered by another pod.
func TestDamageOnOnePodIsNotTheCallersConcern(t *testing.T) {
	damaged := clienttest.Error(codes.DataLoss, kvv1.ErrorReason_ERROR_REASON_CORRUPT, "store: corrupt data")
	fake, c := cluster(t, 3)
	ctx := within(t, 5*time.Second)
	if _, err := c.Put(ctx, "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	fake.Before(times(1, "Range", damaged))
	if kv, err := c.Get(ctx, "a"); err != nil || string(kv.GetValue()) != "1" {
		t.Errorf("%q, %v", kv.GetValue(), err)
	}
	fake.Before(times(1, "HandOver", damaged))
	if _, err := c.HandOver(ctx, ""); !errors.Is(err, client.ErrUnknown) {
		t.Errorf("what cannot be repeated: %v", err)
	}
}

// withoutVerdict are codes that, without a reason, may come from anywhere on the
// way: from gRPC when a stream was reset or an answer cut, from a proxy, from a
// handler that failed after the write was applied.
var withoutVerdict = []codes.Code{
	codes.Canceled, codes.Unknown, codes.InvalidArgument, codes.DeadlineExceeded, codes.NotFound, codes.AlreadyExists,
	codes.ResourceExhausted, codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.Internal, codes.DataLoss,
}

// What cannot be repeated is unknown after the same errors, and what a gateway
// refuses for good is a refusal.
func TestOnlyAReasonOrAGatewayRefuses(t *testing.T) {
	for _, code := range withoutVerdict {
		fake, c := cluster(t, 2)
		fake.After(times(1, "HandOver", status.Error(code, "stream terminated by RST_STREAM")))
		if _, err := c.HandOver(within(t, 5*time.Second), ""); !errors.Is(err, client.ErrUnknown) {
			t.Errorf("%v: %v", code, err)
		}
	}
	for _, code := range []codes.Code{codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied} {
		fake, c := cluster(t, 1)
		fake.Before(times(1e6, "Put", status.Error(code, "not for you")))
		_, err := c.Put(within(t, 5*time.Second), "a", nil)
		var e *client.Error
		if !errors.As(err, &e) || e.Code != code || errors.Is(err, client.ErrUnknown) || fake.Calls("Put") != 1 {
			t.Errorf("%v: %v after %d calls", code, err, fake.Calls("Put"))
		}
	}
}

// What no pod can even receive must not be repeated until the time is over.
func TestWhatIsTooLargeToSendIsRefusedAtOnce(t *testing.T) {
	_, c := cluster(t, 1)
	ctx := within(t, 5*time.Second)
	huge := make([]byte, 20<<20)
	if _, err := c.Put(ctx, "a", huge); !errors.Is(err, client.ErrTooLarge) {
		t.Errorf("a put: %v", err)
	}
	if _, err := c.Txn().Put("a", huge).Commit(ctx); !errors.Is(err, client.ErrTooLarge) {
		t.Errorf("a transaction: %v", err)
	}
	if _, err := c.Get(ctx, string(huge)); !errors.Is(err, client.ErrTooLarge) {
		t.Errorf("a read: %v", err)
	}
	if _, err := c.Delete(ctx, client.Between("a", string(huge))); !errors.Is(err, client.ErrTooLarge) {
		t.Errorf("a delete: %v", err)
	}
}

// A "put if absent, else get" that is repeated must not read as "no value".
func TestALostResultIsAnErrorNotAnEmptyOne(t *testing.T) {
	fake, c := cluster(t, 2)
	ctx := within(t, 10*time.Second)
	b := batcher(t, c, client.BatchOptions{})
	large := make([]byte, 20<<10) // more than is remembered of a result
	if _, err := c.Put(ctx, "a", large); err != nil {
		t.Fatal(err)
	}
	fake.After(times(1, "Txn", errBroken))
	txn, err := c.Txn().IfAbsent("a").Put("a", nil).Else().Get(client.Key("a")).Put("b", nil).Commit(ctx)
	if !errors.Is(err, client.ErrResultCut) || errors.Is(err, client.ErrUnknown) || txn.GetSucceeded() || txn.GetHeader().GetRevision() != 3 {
		t.Errorf("a transaction: %v %v", txn, err)
	}
	fake.After(times(1, "Put", errBroken))
	put, err := c.Put(ctx, "a", large, client.WithPrevKV())
	if !errors.Is(err, client.ErrResultCut) || put.GetHeader().GetRevision() != 4 {
		t.Errorf("a put: %v %v", put, err)
	}
	fake.After(times(1, "Put", errBroken))
	if _, err := c.Put(ctx, "a", large); err != nil {
		t.Errorf("a put that asked for nothing: %v", err)
	}
	fake.After(times(1, "Batch", errBroken))
	result, err := b.Do(ctx, &kvv1.Write{Write: &kvv1.Write_Put{Put: &kvv1.PutRequest{Key: []byte("a"), Value: large, PrevKv: true}}})
	if !errors.Is(err, client.ErrResultCut) || result.GetRevision() != 6 {
		t.Errorf("a batched put: %v %v", result, err)
	}
	fake.After(times(1, "Batch", errBroken))
	if _, err := b.Put(ctx, "a", nil, client.WithPrevKV()); err != nil {
		t.Errorf("a batched put that gives only its revision: %v", err)
	}
}

func TestExpiredRequestID(t *testing.T) {
	fake, c := cluster(t, 1)
	other := connect(t, fake.Endpoints()...)
	ctx := within(t, 5*time.Second)
	for range 3 {
		if _, err := other.Put(ctx, "a", nil); err != nil {
			t.Fatal(err)
		}
	}
	fake.Forget()
	// The client may have learned the revision from Status, or not: both work.
	if _, err := c.Put(ctx, "b", nil); err != nil {
		t.Fatalf("a first attempt that is refused: %v", err)
	}
	// After an unknown outcome there is no telling.
	fake.After(func(_ int, method string) error {
		if method == "Put" {
			fake.Forget()
			return errUnknown
		}
		return nil
	})
	if _, err := other.Put(ctx, "a", nil); err != nil {
		t.Logf("the first may still know the revision: %v", err)
	}
	_, err := c.Put(within(t, 500*time.Millisecond), "b", nil)
	if !errors.Is(err, client.ErrUnknown) {
		t.Fatalf("after an unknown outcome: %v", err)
	}
}

// Scenario: S38
func TestDeadlineHoldsAndSaysWhatIsKnown(t *testing.T) {
	fake, c := cluster(t, 2)
	start := time.Now()
	fake.SetMaster(-1)
	_, err := c.Put(within(t, 300*time.Millisecond), "a", nil)
	if !errors.Is(err, client.ErrNoMaster) || !errors.Is(err, client.ErrUnavailable) ||
		!errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrUnknown) {
		t.Fatalf("without a master: %v", err)
	}
	fake.SetMaster(0)
	fake.After(times(1e6, "Put", errUnknown))
	if _, err = c.Put(within(t, 300*time.Millisecond), "a", nil); !errors.Is(err, client.ErrUnknown) {
		t.Fatalf("with answers lost: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Fatalf("took %v", took)
	}
}

// Scenario: S38
func TestNobodyThereIsUnavailableNotUnknown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	c := connect(t, address)
	_, err = c.Put(within(t, 300*time.Millisecond), "a", nil)
	if !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrUnknown) {
		t.Fatalf("%v", err)
	}
	t.Log(err)
}

func TestHungPodIsLeftForAnother(t *testing.T) {
	fake, c := cluster(t, 3)
	ctx := within(t, 5*time.Second)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	fake.Before(func(pod int, method string) error {
		if pod == 0 && method == "Put" {
			<-hang
		}
		return nil
	})
	start := time.Now()
	if _, err := c.Put(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Second {
		t.Fatalf("took %v", took)
	}
}

func TestWritesGoOnWhenPodsStop(t *testing.T) {
	fake, c := cluster(t, 3)
	ctx := within(t, 20*time.Second)
	for round := range 6 {
		i := round % 3
		fake.SetMaster(i)
		eventually(t, "a write arrives at the master", func() bool {
			_, err := c.Put(ctx, "a", nil)
			return err == nil
		})
		fake.StopPod(i)
		fake.SetMaster((i + 1) % 3)
		start := time.Now()
		if _, err := c.Put(ctx, "a", nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > time.Second {
			t.Fatalf("the first write after the master stopped took %v", took)
		}
		if err := fake.StartPod(i); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOneEndpointFindsTheOthersAndSpreadsReads(t *testing.T) {
	fake, _ := cluster(t, 3)
	fake.SetMaster(2)
	c := connect(t, fake.Endpoints()[0])
	ctx := within(t, 10*time.Second)
	if _, err := c.Put(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	served := map[string]int{}
	eventually(t, "every pod serves reads", func() bool {
		r, err := c.Range(ctx, client.Key("a"))
		if err != nil {
			t.Fatal(err)
		}
		served[r.GetHeader().GetPod()]++
		return len(served) == 3
	})
	eventually(t, "writes go to the master", func() bool {
		r, err := c.Put(ctx, "a", nil)
		return err == nil && r.GetHeader().GetPod() == "kv-2"
	})
	fake.StopPod(0) // the only endpoint that was given
	if _, err := c.Put(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
}

func TestCallsAfterCloseFail(t *testing.T) {
	_, c := cluster(t, 1)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(context.Background(), "a", nil); !errors.Is(err, client.ErrClosed) {
		t.Fatalf("%v", err)
	}
	for _, err := range c.Watch(context.Background(), client.Key("a")) {
		if !errors.Is(err, client.ErrClosed) {
			t.Fatalf("%v", err)
		}
	}
}

func TestRefusalsAreNotRepeated(t *testing.T) {
	fake, c := cluster(t, 1)
	_, err := c.Put(within(t, 5*time.Second), "", nil)
	if !errors.Is(err, client.ErrInvalid) || fake.Calls("Put") != 1 {
		t.Fatalf("%v after %d calls", err, fake.Calls("Put"))
	}
}

// A client whose only endpoint answers late asks again soon who the others are: that
// endpoint may be the next pod that goes.
func TestTheFirstStatusFails(t *testing.T) {
	fake, err := clienttest.Start(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	fake.SetMaster(1)
	fake.Before(times(1, "Status", errBroken))
	c := connect(t, fake.Endpoints()[0])
	eventually(t, "it has been answered", func() bool { return c.Revision() > 0 })
	fake.StopPod(0)
	if _, err := c.Put(within(t, 5*time.Second), "a", nil); err != nil {
		t.Error(err)
	}
}
