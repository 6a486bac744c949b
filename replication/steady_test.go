package replication

import (
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// No election under full load: writers on all pods, and something that takes
// all the processor time it can get. BATON_TEST_STEADY=seconds makes it longer.
func TestSteadyUnderLoad(t *testing.T) {
	d := 3 * time.Second
	if s, err := strconv.Atoi(os.Getenv("BATON_TEST_STEADY")); err == nil {
		d = time.Duration(s) * time.Second
	}
	c := newCluster(t, 3)
	c.idle = true
	c.boot()
	term := c.master().node.Status().Term
	var stop atomic.Bool
	defer stop.Store(true)
	for range runtime.GOMAXPROCS(0) {
		go func() {
			for !stop.Load() {
			}
		}()
	}
	l := c.load(600)
	deadline := time.Now().Add(d)
	for time.Now().Before(deadline) {
		l.awaitMore(1000)
	}
	stop.Store(true)
	l.stop.Store(true)
	l.wg.Wait()
	if got := c.master().node.Status().Term; got != term {
		t.Errorf("term %d after %d: there were elections", got, term)
	}
	t.Logf("%d writes, %d unknown, %d refused", len(l.acked), l.unknown, l.refused)
}

// BenchmarkIdle reports the processor time that three pods take when nothing happens.
func BenchmarkIdle(b *testing.B) {
	c := newCluster(b, 3).boot()
	c.master()
	used := func() time.Duration {
		var u syscall.Rusage
		syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	for range b.N {
		time.Sleep(time.Second)
	}
	b.ReportMetric(float64(used()-before)/float64(b.N)/float64(time.Second)*100, "%cpu")
}
