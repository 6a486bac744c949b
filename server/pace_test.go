package server

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A round keeps its pace, a slower one while the database is written, and leaves a slow
// disk alone for most of the time.
func TestVerificationKeepsItsPace(t *testing.T) {
	st := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		v := &verifier{rate: 1 << 20, read: prometheus.NewCounter(prometheus.CounterOpts{})}
		for _, test := range []struct {
			read       int
			took, want time.Duration
		}{
			{1 << 20, 0, time.Second},
			{1 << 19, 100 * time.Millisecond, 400 * time.Millisecond},
			{1 << 20, 10 * time.Second, 40 * time.Second},
			{0, 0, 0},
		} {
			began := time.Now()
			if !v.pause(t.Context(), st.Store, test.read, test.took) || time.Since(began) != test.want {
				t.Errorf("%d bytes in %s: a pause of %s, not %s", test.read, test.took, time.Since(began), test.want)
			}
		}
		v.total, v.now.parts = 1<<30, 6<<30 // Somebody writes in front of it.
		if began := time.Now(); !v.pause(t.Context(), st.Store, 1<<20, 0) || time.Since(began) != time.Second/2 {
			t.Errorf("a round that would not end pauses for %s", time.Since(began))
		}
	})
}
