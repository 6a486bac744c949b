package main

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// Measurement is one experiment.
type Measurement struct {
	// Name selects it with -only.
	Name string
	// Summary is a line for -h.
	Summary string
	// About is what the report says is measured, in Markdown.
	About string
	// Metrics are the rows of its table.
	Metrics []Metric
	// Round runs it once with one system. It starts and stops its own cluster.
	Round func(ctx context.Context, lab *Lab, system System) (Round, error)
}

// Round is what one round gave: one or several values for each metric's key. A
// missing key is a row without a number.
type Round map[string][]float64

// add appends a value.
func (r Round) add(key string, value float64) {
	r[key] = append(r[key], value)
}

// Metric is a row of the report.
type Metric struct {
	Key   string
	Label string
	// Format writes a value with its unit.
	Format func(float64) string
	Target Target
	// Over makes one value of those of all rounds; nil is the median.
	Over func([]float64) float64
}

// Target is what the row must show; the zero Target is none.
type Target struct {
	Kind  TargetKind
	Value float64
}

// TargetKind says what a target is about.
type TargetKind int

const (
	noTarget     TargetKind = iota
	ratioAtLeast            // Baton's value divided by etcd's
	ratioAtMost
	valueAtMost // Baton's value alone
)

// Plan says how long and how large everything is.
type Plan struct {
	Rounds           int
	Warmup, Duration time.Duration
	Keys             int // the key space of the loads
	StoreKeys        int // the size of the large store
	WearKeys         int // that are overwritten, with values of 1 KiB
	KillRuns         int // in each round
	Idle             time.Duration
}

var (
	fullPlan = Plan{
		Rounds: 5, Warmup: 3 * time.Second, Duration: 10 * time.Second,
		Keys: 100_000, StoreKeys: 1_000_000, WearKeys: 200_000, KillRuns: 4, Idle: time.Minute,
	}
	quickPlan = Plan{
		Rounds: 1, Warmup: time.Second, Duration: 2 * time.Second,
		Keys: 10_000, StoreKeys: 100_000, WearKeys: 50_000, KillRuns: 3, Idle: 10 * time.Second,
	}
)

// Lab is what every measurement works with.
type Lab struct {
	Plan Plan
	// Dir holds the pods' data.
	Dir string
	// Secure: callers speak TLS and log in.
	Secure bool
	// Profiles is a directory for processor profiles of Baton's pods, or empty.
	Profiles string
	// Notes are sentences for the report, such as calls that failed.
	Notes []string
}

// note keeps a sample's failures for the report.
func (l *Lab) note(measurement string, system System, s Sample) {
	if s.Failed > 0 {
		l.Notes = append(l.Notes, fmt.Sprintf("%s, %s: %d calls failed, for example: %v", measurement, system.Name(), s.Failed, s.Failure))
	}
}

// with runs f on a fresh cluster and leaves nothing behind.
func (l *Lab) with(ctx context.Context, system System, f func(*Cluster) error) error {
	c, err := startCluster(ctx, system, l.Dir, l.Secure)
	if err != nil {
		return err
	}
	defer func() {
		c.KillAll()
		_ = c.Remove()
		syscall.Sync() // what the disk still has to do must not slow the next one
	}()
	if err := f(c); err != nil {
		if ctx.Err() != nil {
			return ctx.Err() // interrupted: the pods are not to blame
		}
		return c.explain(err)
	}
	return nil
}

// measurements are all, in the order of the report.
func measurements() []Measurement {
	return []Measurement{
		putMeasurement(), batchMeasurement(), readMeasurement(),
		apiMeasurement(), storeMeasurement(), wearMeasurement(), killMeasurement(), idleMeasurement(),
	}
}
