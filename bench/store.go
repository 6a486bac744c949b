package main

import (
	"context"
	"time"
)

// settle is how long the pods run after a restart before their memory is read.
const settle = 5 * time.Second

func storeMeasurement() Measurement {
	return Measurement{
		Name:    "store",
		Summary: "a store of 1,000,000 keys: memory after a restart, and time to the first write after kill -9 of all pods",
		About: `A store is filled with 1,000,000 keys of 16 bytes with values of 256 random bytes, in transactions of 128 puts.
Then all three pods are ended by kill -9 at one time and started again at once. *Time to the first write* runs from the kill
until any pod accepts a write. Five seconds later the memory of the pods is read: *resident* is VmRSS, with the pages of the
database file that the process has mapped; *anonymous* is RssAnon, what the process has allocated itself. Both are the median
of the three pods.`,
		Metrics: []Metric{
			{Key: "load", Label: "Keys loaded a second, 128 a transaction", Format: perSecond},
			{Key: "first", Label: "Time to the first write after kill -9 of all pods", Format: seconds, Target: Target{ratioAtMost, 0.2}},
			{Key: "rss", Label: "Memory of a pod after the restart, resident", Format: mebibytes, Target: Target{ratioAtMost, 0.2}},
			{Key: "anon", Label: "– of it anonymous", Format: mebibytes},
		},
		Round: storeRound,
	}
}

func storeRound(ctx context.Context, lab *Lab, system System) (Round, error) {
	round := Round{}
	err := lab.with(ctx, system, func(c *Cluster) error {
		from := time.Now()
		if err := fill(ctx, c, lab.Plan.StoreKeys); err != nil {
			return err
		}
		round.add("load", float64(lab.Plan.StoreKeys)/time.Since(from).Seconds())
		if err := pause(ctx, settle); err != nil {
			return err
		}
		killed := time.Now()
		c.KillAll()
		if err := c.StartAll(); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		first, err := c.FirstWrite(wait)
		if err != nil {
			return err
		}
		round.add("first", first.Sub(killed).Seconds())
		if err := c.WaitServing(ctx); err != nil {
			return err
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
		return addMemory(c, round)
	})
	return round, err
}

func addMemory(c *Cluster, round Round) error {
	for key, field := range map[string]string{"rss": "VmRSS", "anon": "RssAnon"} {
		bytes, err := c.Memory(field)
		if err != nil {
			return err
		}
		round.add(key, bytes)
	}
	return nil
}
