package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/client/clienttest"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Scenario: S41
func TestWatchGivesEachEventOnceInOrderOverBrokenStreams(t *testing.T) {
	fake, c := cluster(t, 3)
	ctx := within(t, 20*time.Second)
	// Revisions with one event and with several, so that streams also break in
	// the middle of a revision.
	const rounds = 60
	for i := range rounds {
		txn := c.Txn()
		for j := range i%4 + 1 {
			txn.Put(fmt.Sprintf("w/%d", j), []byte{byte(i)})
		}
		if _, err := txn.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var sent atomic.Int32
	fake.After(func(_ int, method string) error {
		if method != "Watch" {
			return nil
		}
		if n := sent.Add(1); n%2 == 0 {
			return status.Error([]codes.Code{codes.Unavailable, codes.Internal, codes.Unknown, codes.ResourceExhausted}[n/2%4], "broken")
		}
		return nil
	})
	var got []string
	for response, err := range c.Watch(ctx, client.Prefix("w/"), client.FromRevision(1)) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range response.GetEvents() {
			got = append(got, fmt.Sprint(e.GetKv().GetModRevision(), " ", string(e.GetKv().GetKey())))
		}
		if n := len(response.GetEvents()); n > 0 && !response.GetPartial() &&
			response.GetEvents()[n-1].GetKv().GetModRevision() == rounds+1 {
			break
		}
	}
	var want []string
	for i := range rounds {
		for j := range i%4 + 1 {
			want = append(want, fmt.Sprint(i+2, " w/", j))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

// watchInto runs a watch in the background and passes on what it gives.
func watchInto(ctx context.Context, c *client.Client, keys client.Keys, options ...client.WatchOption) (<-chan *kvv1.WatchResponse, <-chan error) {
	responses, failed := make(chan *kvv1.WatchResponse, 1000), make(chan error, 1)
	go func() {
		for response, err := range c.Watch(ctx, keys, options...) {
			if err != nil {
				failed <- err
				return
			}
			responses <- response
		}
	}()
	return responses, failed
}

func TestWatchFromNow(t *testing.T) {
	fake, c := cluster(t, 2)
	ctx, cancel := context.WithCancel(within(t, 10*time.Second))
	if _, err := c.Put(ctx, "a", []byte("before")); err != nil {
		t.Fatal(err)
	}
	responses, failed := watchInto(ctx, c, client.Key("a"), client.Progress(100*time.Millisecond), client.WatchPrevKV(), client.NoDeletes())
	if first := <-responses; len(first.GetEvents()) != 0 || first.GetHeader().GetRevision() != 2 {
		t.Fatalf("first: %v", first)
	}
	if progress := <-responses; len(progress.GetEvents()) != 0 || progress.GetHeader().GetRevision() != 2 {
		t.Fatalf("progress: %v", progress)
	}
	for i := range 2 { // the pod that serves the watch is one of them
		fake.StopPod(i)
		if err := fake.StartPod(i); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Delete(ctx, client.Key("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, "a", []byte("after")); err != nil {
		t.Fatal(err)
	}
	for response := range responses {
		if len(response.GetEvents()) == 0 {
			continue
		}
		e := response.GetEvents()[0]
		if e.GetKv().GetModRevision() != 4 || string(e.GetKv().GetValue()) != "after" || e.GetPrevKv() != nil {
			t.Fatalf("%v", e)
		}
		break
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
}

// What another client was told is written is not after "now", though the pod
// that is asked does not have it yet.
func TestWatchFromNowOnAPodThatIsBehind(t *testing.T) {
	fake, c := cluster(t, 2)
	other := connect(t, fake.Endpoints()...)
	ctx := within(t, 10*time.Second)
	for range 5 {
		if _, err := other.Put(ctx, "a", []byte("before")); err != nil {
			t.Fatal(err)
		}
	}
	fake.Lag(3)
	fake.Before(times(1, "Watch", errBroken)) // before its first message
	for response, err := range c.Watch(ctx, client.Key("a")) {
		if err != nil {
			t.Fatal(err)
		}
		if events := response.GetEvents(); len(events) > 0 {
			if string(events[0].GetKv().GetValue()) != "after" {
				t.Fatalf("%v", response)
			}
			break
		}
		if _, err := other.Put(ctx, "a", []byte("after")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWatchLeavesAFullPod(t *testing.T) {
	fake, c := cluster(t, 3)
	ctx := within(t, 10*time.Second)
	fake.Before(func(pod int, method string) error {
		if method == "Watch" && pod == 0 {
			return clienttest.Error(codes.ResourceExhausted, kvv1.ErrorReason_ERROR_REASON_TOO_MANY, "this pod has 10000 watches")
		}
		return nil
	})
	for range 9 { // some begin at the full one
		for _, err := range c.Watch(ctx, client.Key("a"), client.FromRevision(1)) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
}

func TestWatchLeavesAHungPod(t *testing.T) {
	fake, c := cluster(t, 2)
	ctx := within(t, 10*time.Second)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	var hung atomic.Int32 // the pod that hangs, plus one
	fake.After(func(pod int, method string) error {
		if method == "Watch" && (hung.CompareAndSwap(0, int32(pod)+1) || hung.Load() == int32(pod)+1) {
			<-hang
		}
		return nil
	})
	responses, _ := watchInto(ctx, c, client.Key("a"), client.FromRevision(1), client.Progress(100*time.Millisecond))
	for i := range 2 {
		if _, err := c.Put(ctx, "a", []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	for response := range responses {
		if n := len(response.GetEvents()); n > 0 && response.GetEvents()[n-1].GetKv().GetModRevision() == 3 {
			break
		}
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Fatalf("took %v", took)
	}
}

// Scenario: S41
func TestWatchOfACompactedRevision(t *testing.T) {
	_, c := cluster(t, 1)
	ctx := within(t, 5*time.Second)
	for range 5 {
		if _, err := c.Put(ctx, "a", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Compact(ctx, 4); err != nil {
		t.Fatal(err)
	}
	_, failed := watchInto(ctx, c, client.Key("a"), client.FromRevision(2))
	err := <-failed
	var e *client.Error
	if !errors.Is(err, client.ErrCompacted) || !errors.As(err, &e) || e.Metadata["oldest_revision"] != "4" {
		t.Fatalf("%v", err)
	}
}
