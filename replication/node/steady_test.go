package node

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
// all the processor time it can get. BATON_TEST_STEADY=seconds makes it longer,
// and strict: on a machine with other work an election proves little.
//
// Scenario: S34
func TestSteadyUnderLoad(t *testing.T) {
	d := 2 * time.Second
	seconds, err := strconv.Atoi(os.Getenv("BATON_TEST_STEADY"))
	strict := err == nil
	if strict {
		d = time.Duration(seconds) * time.Second
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
		l.awaitMore(100)
	}
	stop.Store(true)
	l.stop.Store(true)
	l.wg.Wait()
	if got := c.master().node.Status().Term; got != term && strict {
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
