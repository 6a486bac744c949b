package client

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// asleep moves the wall clock of a time, and leaves the monotonic one. Only sleep
// does that, so it takes a look into time.Time: its first word has the seconds
// of the wall clock above 30 bits.
func asleep(t *testing.T, now time.Time, seconds int64) time.Time {
	woken := now
	*(*uint64)(unsafe.Pointer(&woken)) += uint64(seconds) << 30
	if woken.Sub(now) != 0 || woken.Round(0).Sub(now.Round(0)) != time.Duration(seconds)*time.Second {
		t.Error("time.Time is made of other parts now")
	}
	return woken
}

// A machine that sleeps: its monotonic clock, and with it every timer, stands
// still, and the wall clock is far ahead when it wakes up.
func TestALeaseIsNotBelievedInAfterSleep(t *testing.T) {
	var slept atomic.Int64
	k := &keepers{clock: func() time.Time { return asleep(t, time.Now(), slept.Load()) }}
	c := &Client{}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	defer c.tasks.Wait()
	defer c.cancel()
	k.running = true // without a stream: no keep-alive is answered
	c.tasks.Go(func() { k.watchClock(c.ctx) })
	asked := k.add(c, context.Background(), 1, time.Minute, time.Now().Add(time.Minute))
	waits := k.add(c, context.Background(), 2, time.Minute, time.Now().Add(time.Minute))
	long := k.add(c, context.Background(), 3, 3*time.Hour, time.Now().Add(3*time.Hour))
	if asked.Err() != nil || waits.Err() != nil {
		t.Fatal("they are alive")
	}
	slept.Store(3600)
	if asked.Err() == nil || !errors.Is(context.Cause(asked), ErrLeaseNotFound) {
		t.Fatalf("asked right after it woke up: %v", context.Cause(asked))
	}
	select {
	case <-waits.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("it was not told")
	}
	if long.Err() != nil {
		t.Fatal("a lease that outlasts the sleep is lost")
	}
}
