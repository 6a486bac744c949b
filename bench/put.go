package main

import (
	"context"
	"fmt"
	"math/rand/v2"
)

const (
	manyCallers     = 1000
	manyConnections = 100
)

func putMeasurement() Measurement {
	return Measurement{
		Name:    "put",
		Summary: "writes of 256 bytes, one unary call each: 1 caller, and 1,000 callers on 100 connections",
		About: `Each write is one unary gRPC call with a value of 256 random bytes and a key of 16 bytes, drawn uniformly
from a fixed set of keys that exist already. Each caller waits for its answer before it calls again. All callers are
connected to the master (etcd: the leader), so no write is forwarded. *Processor time* is the user and system time of the
three pods; the callers' own is not in it. The *empty call* is the gRPC health check on the same connections: what gRPC
itself costs on this machine, callers included.`,
		Metrics: []Metric{
			{Key: "1/rate", Label: "Writes, 1 caller", Format: perSecond, Target: Target{ratioAtLeast, 1.3}},
			{Key: "1/p50", Label: "– median latency", Format: milliseconds},
			{Key: "1/p99", Label: "– 99th percentile", Format: milliseconds, Target: Target{ratioAtMost, 1}},
			{Key: "1/p999", Label: "– 99.9th percentile", Format: milliseconds},
			{Key: "1/empty", Label: "– empty calls, 1 caller", Format: perSecond},
			{Key: "1000/rate", Label: "Writes, 1,000 callers", Format: perSecond, Target: Target{ratioAtLeast, 1.7}},
			{Key: "1000/p50", Label: "– median latency", Format: milliseconds},
			{Key: "1000/p99", Label: "– 99th percentile", Format: milliseconds, Target: Target{ratioAtMost, 1}},
			{Key: "1000/p999", Label: "– 99.9th percentile", Format: milliseconds},
			{Key: "1000/cpu", Label: "– processor time of the pods for 1,000 writes", Format: milliseconds, Target: Target{ratioAtMost, 0.6}},
			{Key: "1000/empty", Label: "– empty calls, 1,000 callers", Format: perSecond},
		},
		Round: putRound,
	}
}

func putRound(ctx context.Context, lab *Lab, system System) (Round, error) {
	round := Round{}
	err := lab.with(ctx, system, func(c *Cluster) error {
		if err := fill(ctx, c, lab.Plan.Keys); err != nil {
			return err
		}
		leader, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		if err := putLoads(ctx, lab, c, leader, 1, 1, "1/", round); err != nil {
			return err
		}
		return putLoads(ctx, lab, c, leader, manyCallers, manyConnections, "1000/", round)
	})
	return round, err
}

// putLoads measures writes and then empty calls with one number of callers.
func putLoads(ctx context.Context, lab *Lab, c *Cluster, leader, callers, connections int, prefix string, round Round) error {
	clients, closeAll, err := c.DialMany(connections, leader)
	if err != nil {
		return err
	}
	defer closeAll()
	load := Load{Callers: callers, Clients: clients, Warmup: lab.Plan.Warmup, Duration: lab.Plan.Duration, Call: putCall(lab.Plan.Keys)}
	profiles, err := prepareProfiles(ctx, lab, c, fmt.Sprintf("put-%d", callers))
	if err != nil {
		return err
	}
	load.During = profiles.start
	defer profiles.wait()
	puts, err := load.Run(ctx, c)
	if err != nil {
		return err
	}
	lab.note("put", c.System, puts)
	if now, err := c.Leader(ctx); err != nil {
		return err
	} else if now != leader {
		lab.Notes = append(lab.Notes, fmt.Sprintf("put, %s: the master changed while %d callers wrote", c.System.Name(), callers))
	}
	round.addSample(prefix, puts)

	load.During = nil
	load.Warmup, load.Duration = lab.Plan.Warmup/3, lab.Plan.Duration/3
	load.Call = func(ctx context.Context, client Client, _ *rand.Rand) error { return client.Empty(ctx) }
	empty, err := load.Run(ctx, c)
	lab.note("empty call", c.System, empty)
	round.add(prefix+"empty", empty.Rate)
	return err
}

// putCall writes a random value to a random key.
func putCall(keys int) func(context.Context, Client, *rand.Rand) error {
	return func(ctx context.Context, client Client, random *rand.Rand) error {
		return client.Put(ctx, numberedKey(random.IntN(keys)), randomValue(random))
	}
}
