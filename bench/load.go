package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Load is a closed loop: every caller calls, waits for the answer, and calls
// again.
type Load struct {
	// Callers is the number of goroutines; caller i uses Clients[i%len(Clients)].
	Callers int
	Clients []Client
	// Warmup is run and not counted, Duration is counted.
	Warmup, Duration time.Duration
	// Call is one call. A caller's random source is its own.
	Call func(ctx context.Context, client Client, random *rand.Rand) error
	// During, when set, runs while the load is being counted.
	During func()
}

// Sample is what a load gave.
type Sample struct {
	Rate           float64 // calls that succeeded, per second
	P50, P99, P999 time.Duration
	CPU            time.Duration // of all pods, per 1,000 calls
	Failed         int           // calls that did not succeed
	Failure        error         // one of them
}

// caller is what one goroutine saw.
type caller struct {
	latencies []time.Duration
	failed    int
	failure   error
}

// Run drives the load against a cluster.
func (l Load) Run(ctx context.Context, c *Cluster) (Sample, error) {
	begin := time.Now().Add(l.Warmup)
	end := begin.Add(l.Duration)
	callers := make([]caller, l.Callers)
	var wait sync.WaitGroup
	for i := range callers {
		wait.Go(func() { l.call(ctx, i, &callers[i], begin, end) })
	}
	cpu, err := l.watch(ctx, c, begin, end)
	wait.Wait()
	if err != nil {
		return Sample{}, err
	}
	if err := ctx.Err(); err != nil {
		return Sample{}, err
	}
	return l.summary(callers, cpu), nil
}

// watch sleeps through the load and gives the processor time that the pods
// used while it was counted.
func (l Load) watch(ctx context.Context, c *Cluster, begin, end time.Time) (time.Duration, error) {
	if err := pause(ctx, time.Until(begin)); err != nil {
		return 0, err
	}
	before, err := c.CPU()
	if err != nil {
		return 0, err
	}
	if l.During != nil {
		l.During()
	}
	if err := pause(ctx, time.Until(end)); err != nil {
		return 0, err
	}
	after, err := c.CPU()
	return after - before, err
}

// call is the life of one caller. Only calls that end while the load is counted
// are recorded.
func (l Load) call(ctx context.Context, i int, own *caller, begin, end time.Time) {
	random := rand.New(rand.NewPCG(uint64(i), 1))
	client := l.Clients[i%len(l.Clients)]
	for ctx.Err() == nil {
		from := time.Now()
		if from.After(end) {
			return
		}
		err := l.Call(ctx, client, random)
		to := time.Now()
		switch {
		case err != nil:
			own.failed, own.failure = own.failed+1, err
			_ = pause(ctx, 10*time.Millisecond) // a refused call must not become a busy loop
		case to.After(begin) && to.Before(end):
			own.latencies = append(own.latencies, to.Sub(from))
		}
	}
}

func (l Load) summary(callers []caller, cpu time.Duration) Sample {
	var s Sample
	var all []time.Duration
	for _, c := range callers {
		all = append(all, c.latencies...)
		s.Failed += c.failed
		if c.failure != nil {
			s.Failure = c.failure
		}
	}
	slices.Sort(all)
	s.Rate = float64(len(all)) / l.Duration.Seconds()
	s.P50, s.P99, s.P999 = percentile(all, 0.50), percentile(all, 0.99), percentile(all, 0.999)
	if len(all) > 0 {
		s.CPU = time.Duration(float64(cpu) * 1000 / float64(len(all)))
	}
	return s
}

// addSample keeps a sample under keys with a prefix.
func (r Round) addSample(prefix string, s Sample) {
	r.add(prefix+"rate", s.Rate)
	r.add(prefix+"p50", s.P50.Seconds())
	r.add(prefix+"p99", s.P99.Seconds())
	r.add(prefix+"p999", s.P999.Seconds())
	r.add(prefix+"cpu", s.CPU.Seconds())
}
