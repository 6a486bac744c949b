package client_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/client/clienttest"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func overRate(ms string) error {
	return clienttest.Error(codes.ResourceExhausted, kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED, "the rate is used", "retry_after_ms", ms)
}

// A call that was refused for its tenant's rate comes again when it was told to, and a
// write to the master as before: another pod is no way around.
func TestRateIsWaitedFor(t *testing.T) {
	for _, method := range []string{"Put", "Batch"} {
		fake, c := cluster(t, 3)
		ctx := within(t, 10*time.Second)
		var last atomic.Int32
		fake.Before(func(pod int, called string) error { last.Store(int32(pod)); return nil })
		inARow := 0 // Until the master, the first pod, is known.
		eventually(t, "all writes go to the master", func() bool {
			last.Store(-1)
			if _, err := c.Put(ctx, "a", nil); err != nil || last.Load() != 0 {
				inARow = 0
			}
			inARow++
			return inARow > 5
		})
		refuse := times(2, method, overRate("150"))
		var mu sync.Mutex
		var pods []int
		fake.Before(func(pod int, called string) error {
			mu.Lock()
			defer mu.Unlock()
			if called == method {
				pods = append(pods, pod)
			}
			return refuse(pod, called)
		})
		begin := time.Now()
		var err error
		if method == "Put" {
			_, err = c.Put(ctx, "a", nil)
		} else {
			_, err = batcher(t, c, client.BatchOptions{}).Put(ctx, "a", nil)
		}
		if err != nil || time.Since(begin) < 300*time.Millisecond {
			t.Errorf("%s: %v after %v", method, err, time.Since(begin))
		}
		mu.Lock()
		if method == "Put" && slices.Max(pods) > 0 || len(pods) < 3 || len(pods) > 4 { // A stream of batches begins, too.
			t.Errorf("%s came to the pods %v", method, pods)
		}
		mu.Unlock()
	}
}

// A batch that is told to come again after its time is up ends when that is up, whether
// its stream is refused or only the batch is.
func TestBatchDoesNotWaitBeyondItsTime(t *testing.T) {
	for _, opened := range []int32{0, 1} {
		fake, c := cluster(t, 1)
		var n atomic.Int32
		fake.Before(func(_ int, called string) error {
			if called == "Batch" && n.Add(1) > opened {
				return overRate("60000")
			}
			return nil
		})
		begin := time.Now()
		_, err := batcher(t, c, client.BatchOptions{Timeout: 200 * time.Millisecond}).Put(within(t, 30*time.Second), "a", nil)
		if err == nil || time.Since(begin) > 5*time.Second {
			t.Errorf("after %d calls that were let in: %v after %v", opened, err, time.Since(begin))
		}
	}
}

// What the caller gets when its patience ends before the wait, and for a quota.
func TestErrorsOfTenants(t *testing.T) {
	fake, c := cluster(t, 1)
	fake.Before(times(100, "Put", overRate("60000")))
	_, err := c.Put(within(t, 200*time.Millisecond), "a", nil)
	for _, want := range []error{client.ErrRateExceeded, client.ErrUnavailable, context.DeadlineExceeded} {
		if !errors.Is(err, want) {
			t.Errorf("%v is not %v", err, want)
		}
	}
	fake.Before(times(1, "Put", clienttest.Error(codes.ResourceExhausted, kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED, "full", "tenant", "a")))
	_, err = c.Put(within(t, 5*time.Second), "a", nil)
	var e *client.Error
	if !errors.Is(err, client.ErrQuotaExceeded) || errors.Is(err, client.ErrUnavailable) || !errors.As(err, &e) || e.Metadata["tenant"] != "a" {
		t.Errorf("over the quota: %v", err)
	}
	if _, err := c.Tenants(within(t, 5*time.Second), "none"); !errors.Is(err, client.ErrTenantNotFound) {
		t.Errorf("a tenant that is not there: %v", err)
	}
}
