package main

import (
	"runtime"
	"syscall"
	"time"
)

// meter tells how much of the processors other programs used.
type meter struct {
	at        time.Time
	busy, own time.Duration
}

func startMeter() (meter, error) {
	used, err := busy()
	return meter{at: time.Now(), busy: used, own: own()}, err
}

// others is the share of all processors' time since the start that neither the
// benchmark nor its pods used. To be called when all pods have ended: only then
// does the kernel add their time to the benchmark's.
func (m meter) others() (float64, error) {
	used, err := busy()
	if err != nil {
		return 0, err
	}
	available := time.Since(m.at) * time.Duration(runtime.NumCPU())
	return max(0, float64((used-m.busy)-(own()-m.own))/float64(available)), nil
}

// own is the processor time of this process and its ended children.
func own() time.Duration {
	var total time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if syscall.Getrusage(who, &usage) == nil {
			total += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		}
	}
	return total
}
