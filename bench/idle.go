package main

import (
	"context"
	"time"
)

// idleFor is what the processor time of idle pods is told for.
const idleFor = 10 * time.Minute

func idleMeasurement() Measurement {
	return Measurement{
		Name:    "idle",
		Summary: "three pods that nobody calls: their processor time",
		About: `Three pods without a key, and without a client, for as long as a round lasts; their processor time (user and system,
of all three) is told for ten minutes.`,
		Metrics: []Metric{
			{Key: "cpu", Label: "Processor time of three idle pods in ten minutes", Format: seconds},
		},
		Round: idleRound,
	}
}

func idleRound(ctx context.Context, lab *Lab, system System) (Round, error) {
	round := Round{}
	err := lab.with(ctx, system, func(c *Cluster) error {
		if err := pause(ctx, settle); err != nil {
			return err
		}
		began := time.Now()
		before, err := c.CPU()
		if err != nil {
			return err
		}
		if err := pause(ctx, lab.Plan.Idle); err != nil {
			return err
		}
		after, err := c.CPU()
		if err != nil {
			return err
		}
		round.add("cpu", (after-before).Seconds()*idleFor.Seconds()/time.Since(began).Seconds())
		return nil
	})
	return round, err
}
