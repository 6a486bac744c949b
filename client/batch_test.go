package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/client/clienttest"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func batcher(t testing.TB, c *client.Client, o client.BatchOptions) *client.Batcher {
	t.Helper()
	b, err := c.NewBatcher(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBatcherAppliesEachWriteOnceWhateverBreaks(t *testing.T) {
	fake, c := cluster(t, 3)
	ctx := within(t, 30*time.Second)
	b := batcher(t, c, client.BatchOptions{})
	var n atomic.Int32
	fake.Before(func(_ int, method string) error {
		if method == "Batch" && n.Add(1)%7 == 0 {
			return clienttest.Error(codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_NO_MASTER, "there is no master now")
		}
		return nil
	})
	fake.After(func(_ int, method string) error {
		if method == "Batch" && n.Add(1)%5 == 0 {
			return errBroken // applied, and the answer lost
		}
		return nil
	})
	const writers, each = 50, 40
	var tasks sync.WaitGroup
	for i := range writers {
		tasks.Go(func() {
			for range each {
				if _, err := b.Put(ctx, fmt.Sprintf("b/%d", i), nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	tasks.Wait()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range writers {
		kv, err := c.Get(ctx, fmt.Sprintf("b/%d", i))
		if err != nil || kv.GetVersion() != each {
			t.Fatalf("writer %d: %d writes, %v", i, kv.GetVersion(), err)
		}
	}
}

func TestBatcherKeepsOrderWithOneInFlight(t *testing.T) {
	fake, c := cluster(t, 2)
	ctx := within(t, 30*time.Second)
	b := batcher(t, c, client.BatchOptions{InFlight: 1})
	var n, m atomic.Int32
	fake.After(func(_ int, method string) error {
		if method == "Batch" && n.Add(1)%3 == 0 {
			return errBroken
		}
		return nil
	})
	fake.Before(func(_ int, method string) error {
		if method == "Batch" && m.Add(1)%4 == 0 {
			return clienttest.Error(codes.ResourceExhausted, kvv1.ErrorReason_ERROR_REASON_OVERLOADED, "the queue is full")
		}
		return nil
	})
	var last int64
	const writes = 20000
	for range writes {
		err := b.PutAsync(ctx, "a", []byte("v"), func(revision int64, err error) {
			if err != nil || revision <= last {
				t.Errorf("revision %d after %d, %v", revision, last, err)
			}
			last = revision
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if last != writes+1 {
		t.Fatalf("the last revision is %d", last)
	}
	if n := fake.Calls("Batch"); n > writes/10 {
		t.Fatalf("%d messages for %d writes: they were not gathered", n, writes)
	}
}

func TestBatcherTellsRefusalsToWhomTheyConcern(t *testing.T) {
	fake, c := cluster(t, 1)
	ctx := within(t, 10*time.Second)
	b := batcher(t, c, client.BatchOptions{})
	if _, err := b.Put(ctx, "", nil); !errors.Is(err, client.ErrInvalid) {
		t.Fatalf("%v", err)
	}
	if _, err := b.Put(ctx, "a", make([]byte, 2<<20)); !errors.Is(err, client.ErrTooLarge) {
		t.Fatalf("%v", err)
	}
	if _, err := b.Put(ctx, "a", nil, client.WithLease(77)); !errors.Is(err, client.ErrLeaseNotFound) {
		t.Fatalf("%v", err)
	}
	result, err := b.Do(ctx, &kvv1.Write{Write: &kvv1.Write_Delete{Delete: &kvv1.DeleteRequest{Key: []byte("a")}}})
	if err != nil || result.GetDelete().GetDeleted() != 0 {
		t.Fatalf("%v %v", result, err)
	}
	fake.SetMaster(-1)
	if _, err := b.Put(within(t, 200*time.Millisecond), "b", nil); !errors.Is(err, client.ErrUnknown) {
		t.Fatalf("the caller does not wait any more, the write goes on: %v", err)
	}
	fake.SetMaster(0)
	eventually(t, "the write arrives", func() bool {
		_, err := c.Get(ctx, "b")
		return err == nil
	})
}

// Also when the answer to the first sending was lost.
func TestBatcherFindsTheWriteThatSpoilsABatch(t *testing.T) {
	for name, broken := range map[string]int32{"answered": 0, "after a lost answer": 3} {
		t.Run(name, func(t *testing.T) { findSpoiler(t, broken) })
	}
}

func findSpoiler(t *testing.T, broken int32) {
	fake, c := cluster(t, 1)
	ctx := within(t, 10*time.Second)
	fake.SpoilBatches("bad")
	var lost atomic.Int32
	fake.Before(func(_ int, method string) error {
		if method == "Batch" && lost.Add(1) <= broken {
			return errBroken
		}
		return nil
	})
	b := batcher(t, c, client.BatchOptions{InFlight: 1})
	var refused, applied atomic.Int32
	for i := range 100 {
		key := fmt.Sprint("k", i)
		if i == 41 {
			key = "bad"
		}
		err := b.PutAsync(ctx, key, nil, func(_ int64, err error) {
			switch {
			case err == nil:
				applied.Add(1)
			case errors.Is(err, client.ErrInvalid) && key == "bad":
				refused.Add(1)
			default:
				t.Errorf("%s: %v", key, err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if refused.Load() != 1 || applied.Load() != 99 {
		t.Fatalf("%d refused, %d applied", refused.Load(), applied.Load())
	}
}

// A batch that was applied, though its answer was lost, may look at too many keys when it
// is repeated: that does not say that it was not applied, and its writes are not done
// again.
func TestBatcherThatIsTooLargeByNow(t *testing.T) {
	for _, metadata := range [][]string{{"field", "keys"}, {"field", "keys of the leases"}, nil} {
		fake, c := cluster(t, 1)
		ctx := within(t, 10*time.Second)
		var calls atomic.Int32
		gathered := make(chan struct{})
		fake.Before(func(_ int, method string) error {
			if method != "Batch" {
				return nil
			}
			switch calls.Add(1) { // A stream, two lists, and after the second one another stream, for it.
			case 2:
				<-gathered
			case 5:
				return clienttest.Error(codes.InvalidArgument, kvv1.ErrorReason_ERROR_REASON_TOO_LARGE, "too many", metadata...)
			}
			return nil
		})
		fake.After(func(_ int, method string) error {
			if method == "Batch" && calls.Load() == 3 {
				return errBroken
			}
			return nil
		})
		b := batcher(t, c, client.BatchOptions{InFlight: 1})
		results := make(chan error, 3)
		for _, key := range []string{"first", "k1", "k2"} {
			if err := b.PutAsync(ctx, key, nil, func(_ int64, err error) { results <- err }); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the first is on its way, alone", func() bool { return calls.Load() > 1 })
		}
		close(gathered)
		var failed []error
		for range 3 {
			if err := <-results; err != nil {
				failed = append(failed, err)
			}
		}
		if len(failed) != 2 || !errors.Is(failed[0], client.ErrUnknown) || !errors.Is(failed[1], client.ErrUnknown) {
			t.Errorf("%v: %v", metadata, failed)
		}
		for _, key := range []string{"k1", "k2"} {
			if kv, err := c.Get(ctx, key); err != nil || kv.GetVersion() != 1 {
				t.Errorf("%v: %s was written %d times, %v", metadata, key, kv.GetVersion(), err)
			}
		}
	}
}

func TestBatcherGivesUpInTime(t *testing.T) {
	fake, c := cluster(t, 1)
	fake.StopPod(0)
	b := batcher(t, c, client.BatchOptions{Timeout: 200 * time.Millisecond})
	start := time.Now()
	_, err := b.Put(context.Background(), "a", nil)
	if !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrUnknown) {
		t.Fatalf("%v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Fatalf("took %v", took)
	}
	if _, err := b.Put(context.Background(), "a", nil); !errors.Is(err, client.ErrClosed) {
		t.Fatalf("%v", err)
	}
}

func TestBatcherCloseWaitsForWritesThatAreRepeated(t *testing.T) {
	fake, c := cluster(t, 1)
	var n atomic.Int32
	fake.Before(func(_ int, method string) error {
		if method == "Batch" && n.Add(1)%2 == 1 {
			return clienttest.Error(codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_NO_MASTER, "there is no master now")
		}
		return nil
	})
	for range 100 {
		b := batcher(t, c, client.BatchOptions{})
		told := make(chan error, 1)
		if err := b.PutAsync(context.Background(), "a", nil, func(_ int64, err error) { told <- err }); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-told:
			if err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatal("Close did not wait")
		}
	}
}

// A callback that writes is on the goroutine that makes room for it.
func TestBatcherCallbacksMayWrite(t *testing.T) {
	fake, c := cluster(t, 1)
	ctx := within(t, 20*time.Second)
	b := batcher(t, c, client.BatchOptions{InFlight: 1})
	value := make([]byte, 700<<10) // one a batch
	full := make(chan struct{})
	fake.Before(func(_ int, method string) error {
		if method == "Batch" {
			<-full
		}
		return nil
	})
	var told atomic.Int32
	count := func(_ int64, err error) {
		if told.Add(1); err != nil {
			t.Error(err)
		}
	}
	const first, more = 17, 20 // as many as may wait, with that in flight
	for i := range first {
		err := b.PutAsync(ctx, "a", value, func(revision int64, err error) {
			for range more * (1 - min(i, 1)) { // the first one
				if err := b.PutAsync(context.Background(), "a", value, count); err != nil {
					t.Error(err)
				}
			}
			count(revision, err)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	close(full)
	eventually(t, "all are told", func() bool { return told.Load() == first+more })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// One that writes without end waits for itself: it must not wait for ever.
func TestCloseEndsACallbackThatWaitsForItself(t *testing.T) {
	_, c := cluster(t, 1)
	b := batcher(t, c, client.BatchOptions{InFlight: 1})
	value := make([]byte, 700<<10)
	ended, waits := make(chan error), make(chan struct{})
	var n atomic.Int32
	err := b.PutAsync(context.Background(), "a", value, func(int64, error) {
		var err error
		for err == nil {
			if n.Add(1) == 16 {
				close(waits)
			}
			err = b.PutAsync(context.Background(), "a", value, func(int64, error) {})
		}
		ended <- err
	})
	if err != nil {
		t.Fatal(err)
	}
	<-waits
	go c.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, client.ErrClosed) {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it still waits")
	}
}

func TestBatcherLeavesAHungPod(t *testing.T) {
	fake, c := cluster(t, 2)
	ctx := within(t, 10*time.Second)
	b := batcher(t, c, client.BatchOptions{})
	if _, err := b.Put(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	var pod atomic.Int32
	fake.Before(func(p int, method string) error {
		if method == "Batch" && (pod.CompareAndSwap(0, int32(p)+1) || pod.Load() == int32(p)+1) {
			<-hang
		}
		return nil
	})
	start := time.Now()
	if _, err := b.Put(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Fatalf("took %v", took)
	}
}

// What the client itself costs a write: the stand-in answers from memory.
func BenchmarkBatcherPutAsync(b *testing.B) {
	_, c := cluster(b, 1)
	w := batcher(b, c, client.BatchOptions{})
	ctx, value := context.Background(), make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		err := w.PutAsync(ctx, "a key of twenty chars", value, func(_ int64, err error) {
			if err != nil {
				b.Error(err)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}

func BenchmarkBatcherPut1000Callers(b *testing.B) {
	_, c := cluster(b, 1)
	w := batcher(b, c, client.BatchOptions{})
	ctx, value := context.Background(), make([]byte, 256)
	b.SetParallelism(500)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := w.Put(ctx, "a key of twenty chars", value); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}

func BenchmarkPut(b *testing.B) {
	_, c := cluster(b, 1)
	ctx, value := context.Background(), make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Put(ctx, "a key of twenty chars", value); err != nil {
			b.Fatal(err)
		}
	}
}
