package raftio

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/batondb/baton/replication"
)

// A master whose lease is shorter than the heartbeat timeout counts answers by the
// lease, and would step down between two heartbeats.
func TestBeatsWithinTheLease(t *testing.T) {
	b := newBeats(replication.Timing{Heartbeat: 500 * time.Millisecond, Lease: 100 * time.Millisecond})
	if b.pause != 30*time.Millisecond {
		t.Errorf("%s between heartbeats", b.pause)
	}
}

// Heartbeats of a quiet cluster are spaced; nobody who needs one waits, and a
// member that does not answer is asked all the time.
func TestBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBeats(replication.Timing{Heartbeat: 500 * time.Millisecond, Lease: 500 * time.Millisecond})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		took := func(last time.Time) time.Duration {
			began := time.Now()
			b.await(ctx, last)
			return time.Since(began)
		}
		want := func(what string, last time.Time, want time.Duration) {
			t.Helper()
			if got := took(last); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		time.Sleep(time.Minute)
		want("right after one", time.Now(), 150*time.Millisecond)
		want("a while after one", time.Now().Add(-100*time.Millisecond), 50*time.Millisecond)
		want("long after one", time.Now().Add(-time.Second), 0)
		want("a member that is away", time.Time{}, 0)
		last := time.Now()
		go func() {
			time.Sleep(10 * time.Millisecond)
			b.hurry()
		}()
		want("somebody is in a hurry meanwhile", last, 10*time.Millisecond)
		want("the same one to another member", last, 0)
		time.Sleep(time.Millisecond)
		want("the next one", time.Now(), 150*time.Millisecond)
		b.noteEntries()
		want("while there are entries", time.Now(), 0)
		time.Sleep(quietAfter)
		want("after them", time.Now(), 150*time.Millisecond)
		cancel()
		want("at the end", time.Now(), 0)
	})
}
