package main

import (
	"context"
	"math/rand/v2"
)

func readMeasurement() Measurement {
	return Measurement{
		Name:    "read",
		Summary: "linearizable reads of one key, 1,000 callers spread over the three pods",
		About: `Each read is one unary gRPC call for one random key that exists, linearizable (the default of both). The 1,000
callers have 100 connections, spread evenly over the three pods. Nothing is written meanwhile.`,
		Metrics: []Metric{
			{Key: "rate", Label: "Linearizable reads, 1,000 callers", Format: perSecond},
			{Key: "p50", Label: "– median latency", Format: milliseconds},
			{Key: "p99", Label: "– 99th percentile", Format: milliseconds},
			{Key: "cpu", Label: "– processor time of the pods for 1,000 reads", Format: milliseconds},
		},
		Round: readRound,
	}
}

func readRound(ctx context.Context, lab *Lab, system System) (Round, error) {
	round := Round{}
	err := lab.with(ctx, system, func(c *Cluster) error {
		if err := fill(ctx, c, lab.Plan.Keys); err != nil {
			return err
		}
		clients, closeAll, err := c.DialMany(manyConnections, 0, 1, 2)
		if err != nil {
			return err
		}
		defer closeAll()
		load := Load{
			Callers: manyCallers, Clients: clients, Warmup: lab.Plan.Warmup, Duration: lab.Plan.Duration,
			Call: getCall(lab.Plan.Keys),
		}
		reads, err := load.Run(ctx, c)
		lab.note("read", system, reads)
		round.addSample("", reads)
		return err
	})
	return round, err
}

// getCall reads a random key.
func getCall(keys int) func(context.Context, Client, *rand.Rand) error {
	return func(ctx context.Context, client Client, random *rand.Rand) error {
		_, err := client.Get(ctx, numberedKey(random.IntN(keys)))
		return err
	}
}
