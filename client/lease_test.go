package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/batondb/baton/client"
)

func TestLeaseIsKeptAliveUntilItIsNot(t *testing.T) {
	fake, c := cluster(t, 2)
	ctx := within(t, 20*time.Second)
	lease, err := c.Grant(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, "a", nil, client.WithLease(lease)); err != nil {
		t.Fatal(err)
	}
	keep, stop := context.WithCancel(ctx)
	held, err := c.KeepAlive(keep, lease)
	if err != nil {
		t.Fatal(err)
	}
	fake.StopPod(0)
	fake.SetMaster(1)
	time.Sleep(1500 * time.Millisecond) // longer than it would live
	if held.Err() != nil {
		t.Fatalf("lost: %v", context.Cause(held))
	}
	ttl, err := c.TimeToLive(ctx, lease, true)
	if err != nil || ttl.GetRemainingSeconds() != 1 || len(ttl.GetKeys()) != 1 {
		t.Fatalf("%v %v", ttl, err)
	}
	stop()
	<-held.Done()
	eventually(t, "the key ends with its lease", func() bool {
		_, err := c.Get(ctx, "a")
		return errors.Is(err, client.ErrNotFound)
	})
	if _, err := c.KeepAlive(ctx, lease); !errors.Is(err, client.ErrLeaseNotFound) {
		t.Fatalf("%v", err)
	}
}

func TestManyLeasesShareOneStream(t *testing.T) {
	fake, c := cluster(t, 1)
	ctx := within(t, 20*time.Second)
	var held []context.Context
	var leases []int64
	for range 50 {
		lease, err := c.Grant(ctx, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		h, err := c.KeepAlive(ctx, lease)
		if err != nil {
			t.Fatal(err)
		}
		held, leases = append(held, h), append(leases, lease)
	}
	time.Sleep(1500 * time.Millisecond)
	for i, h := range held {
		if h.Err() != nil {
			t.Fatalf("lease %d: %v", leases[i], context.Cause(h))
		}
	}
	if n := fake.Calls("KeepAlive"); n != 1 {
		t.Fatalf("%d streams", n)
	}
	if _, err := c.Revoke(ctx, leases[0]); err != nil {
		t.Fatal(err)
	}
	<-held[0].Done()
	if !errors.Is(context.Cause(held[0]), client.ErrLeaseNotFound) || held[1].Err() != nil {
		t.Fatalf("%v, %v", context.Cause(held[0]), held[1].Err())
	}
}

func TestLeaseIsLostWhenNobodyAnswers(t *testing.T) {
	fake, c := cluster(t, 1)
	ctx := within(t, 20*time.Second)
	lease, err := c.Grant(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	held, err := c.KeepAlive(ctx, lease)
	if err != nil {
		t.Fatal(err)
	}
	fake.StopPod(0)
	start := time.Now()
	<-held.Done()
	if took := time.Since(start); took > 1500*time.Millisecond || !errors.Is(context.Cause(held), client.ErrLeaseNotFound) {
		t.Fatalf("%v after %v", context.Cause(held), took)
	}
}

// After an outage the client has become patient with pods; a lock has not the
// time for that.
func TestOneHungPodAfterAnOutageLosesNoLease(t *testing.T) {
	fake, c := cluster(t, 3)
	ctx := within(t, 20*time.Second)
	lease, err := c.Grant(ctx, 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var outage, hung, answered atomic.Int32
	ended := make(chan struct{})
	fake.After(func(pod int, method string) error {
		switch {
		case method != "KeepAlive":
		case outage.Load() < 8: // the attempts' patience has doubled so often
			outage.Add(1)
			return errBroken
		case hung.CompareAndSwap(0, int32(pod)+1) || hung.Load() == int32(pod)+1:
			<-ended
		default:
			answered.Add(1)
		}
		return nil
	})
	defer close(ended)
	held, err := c.KeepAlive(ctx, lease)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "another pod answers, or the lease is lost", func() bool { return held.Err() != nil || answered.Load() >= 2 })
	if hung.Load() == 0 || held.Err() != nil {
		t.Fatalf("pod %d hung: %v", hung.Load()-1, context.Cause(held))
	}
}

// The context must not outlive the lease, however little of it is left.
func TestContextEndsBeforeItsLease(t *testing.T) {
	fake, c := cluster(t, 1)
	ctx := within(t, 20*time.Second)
	lease, err := c.Grant(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ends := time.Now().Add(time.Second) // at the latest
	eventually(t, "little is left", func() bool {
		ttl, err := c.TimeToLive(ctx, lease, false)
		return err == nil && ttl.GetRemainingMs() < 300
	})
	hang := make(chan struct{})
	defer close(hang)
	fake.After(func(_ int, method string) error {
		if method == "KeepAlive" {
			<-hang
		}
		return nil
	})
	held, err := c.KeepAlive(ctx, lease)
	if err != nil {
		t.Fatal(err)
	}
	<-held.Done()
	if late := time.Since(ends); late > 50*time.Millisecond {
		t.Fatalf("the context ended %v after the lease may have", late)
	}
}

func TestLockIsHeldByOneAtATimeInOrder(t *testing.T) {
	_, c := cluster(t, 2)
	ctx := within(t, 20*time.Second)
	first, err := c.Lock(ctx, "l")
	if err != nil {
		t.Fatal(err)
	}
	var holders atomic.Int32
	var mu sync.Mutex
	var order []int
	var last int64
	var tasks sync.WaitGroup
	for i := range 5 {
		tasks.Go(func() {
			l, err := c.Lock(ctx, "l")
			if err != nil {
				t.Error(err)
				return
			}
			if holders.Add(1) != 1 {
				t.Error("two hold the lock")
			}
			mu.Lock()
			order = append(order, i)
			if l.Token() <= last {
				t.Errorf("token %d after %d", l.Token(), last)
			}
			last = l.Token()
			mu.Unlock()
			holders.Add(-1)
			if err := l.Unlock(ctx); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "the next joins the queue", func() bool {
			n, err := c.Count(ctx, client.Prefix("l/"))
			return err == nil && n == int64(i+2)
		})
	}
	if err := first.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	tasks.Wait()
	if fmt.Sprint(order) != "[0 1 2 3 4]" {
		t.Fatalf("order %v", order)
	}
	if first.Context().Err() == nil {
		t.Fatal("the context of an unlocked lock goes on")
	}
}

func TestALockIsAnotherThanOneWhoseNameGoesOn(t *testing.T) {
	_, c := cluster(t, 1)
	ctx := within(t, 10*time.Second)
	if _, err := c.Lock(ctx, "jobs/1", client.LockValue([]byte("of jobs/1"))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, "jobs/plan", []byte("no lock at all")); err != nil {
		t.Fatal(err)
	}
	if leader, err := c.Leader(ctx, "jobs"); !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("nobody leads: %v %v", leader, err)
	}
	if _, err := c.Lock(within(t, 2*time.Second), "jobs", client.LockValue([]byte("of jobs"))); err != nil {
		t.Fatal(err)
	}
	for leader, err := range c.Observe(ctx, "jobs") {
		if err != nil || string(leader.GetValue()) != "of jobs" {
			t.Fatalf("%v %v", leader, err)
		}
		break
	}
}

func TestLockWaitsOnlyAsLongAsItsContext(t *testing.T) {
	_, c := cluster(t, 1)
	ctx := within(t, 20*time.Second)
	held, err := c.Lock(ctx, "l")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Lock(within(t, 200*time.Millisecond), "l"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	if n, err := c.Count(ctx, client.Prefix("l/")); err != nil || n != 1 {
		t.Fatalf("%d in the queue, %v", n, err)
	}
	if held.Context().Err() != nil {
		t.Fatal("the other lost it")
	}
}

func TestElection(t *testing.T) {
	_, c := cluster(t, 2)
	ctx := within(t, 20*time.Second)
	seen := make(chan string, 10)
	observe, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for leader, err := range c.Observe(observe, "e") {
			switch {
			case err != nil:
				close(seen)
				return
			case leader == nil:
				seen <- "nobody"
			default:
				seen <- string(leader.GetValue())
			}
		}
	}()
	next := func(want string) {
		t.Helper()
		if got := <-seen; got != want {
			t.Fatalf("saw %q, not %q", got, want)
		}
	}
	next("nobody")
	if _, err := c.Leader(ctx, "e"); !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("%v", err)
	}
	one, err := c.Campaign(ctx, "e", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	next("one")
	if err := one.SetValue(ctx, []byte("still one")); err != nil {
		t.Fatal(err)
	}
	next("still one")
	won := make(chan error, 1)
	go func() {
		_, err := c.Campaign(ctx, "e", []byte("two"))
		won <- err
	}()
	eventually(t, "two waits", func() bool {
		n, err := c.Count(ctx, client.Prefix("e/"))
		return err == nil && n == 2
	})
	if err := one.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	next("two")
	if err := <-won; err != nil {
		t.Fatal(err)
	}
	if leader, err := c.Leader(ctx, "e"); err != nil || string(leader.GetValue()) != "two" {
		t.Fatalf("%v %v", leader, err)
	}
	if err := one.SetValue(ctx, nil); !errors.Is(err, client.ErrLeaseNotFound) {
		t.Fatalf("%v", err)
	}
}
