package server

import (
	"testing"
	"testing/synctest"
	"time"
)

// Ids grow within a pod, also when the clock stands still or is set back, with the
// time between pods, and two pods never choose the same.
func TestLeaseIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newLeaseIDs(0), newLeaseIDs(1)
		seen := map[int64]bool{}
		var last int64
		for range 100 {
			for range 100 {
				first, second := a.next(), b.next()
				if first <= last || seen[first] || seen[second] {
					t.Fatalf("%d and %d after %d", first, second, last)
				}
				seen[first], seen[second], last = true, true, first
			}
			time.Sleep(time.Millisecond)
			if second := b.next(); second <= last {
				t.Fatalf("%d a millisecond after %d", second, last)
			}
		}
		a.last.Store(a.last.Load() + 1<<30)
		if first := a.next(); first <= last {
			t.Fatalf("%d after %d, and the clock was set back", first, last)
		}
	})
	if id := newLeaseIDs(1<<20 + 5).next(); id <= 0 || id&(1<<leasePodBits-1) != 5 {
		t.Errorf("%b", id)
	}
}
