package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	wearValueBytes = 1 << 10
	wearKeyBytes   = 16
	// wearKeep is how many revisions the client keeps that compacts every
	// wearCompact.
	wearKeep    = 50_000
	wearCompact = 5 * time.Second
	// wearShare is how many times as long as the other loads this one is counted: what
	// is written now is moved, merged and removed later.
	wearShare = 6
	// wearDeletes is how many keys one call deletes.
	wearDeletes = 1000
	// wearAfter is when the size is read after everything was deleted and compacted.
	wearAfter = 20 * time.Second
)

func wearMeasurement() Measurement {
	return Measurement{
		Name:    "wear",
		Summary: "200 MiB of values of 1 KiB, overwritten: bytes written to disk, size on disk, and after all was deleted",
		About: `A store has 200,000 keys of 16 bytes with values of 1 KiB. 1,000 callers on 100 connections overwrite them at random,
one unary call each, while another client compacts every five seconds to the last 50,000 revisions. *Bytes written* are those
that the kernel counts for the three pods (write_bytes in /proc/PID/io), for each byte of a key and a value that was
acknowledged, and for each pod. *On disk* is what is allocated in the largest of the pods' data directories, read every second.
Then all keys are deleted, everything is compacted, and etcd's pods are defragmented one after the other, as its users do; 20 s
later the size is read again.`,
		Metrics: []Metric{
			{Key: "rate", Label: "Writes of 1 KiB, 1,000 callers, with compaction", Format: perSecond, Target: Target{ratioAtLeast, 1.8}},
			{Key: "p99", Label: "– 99th percentile", Format: milliseconds, Target: Target{ratioAtMost, 1}},
			{Key: "written", Label: "– bytes written to a pod's disk for a byte of a user's", Format: short, Target: Target{ratioAtMost, 0.5}},
			{Key: "disk", Label: "– on disk at most, for a byte that is live", Format: short, Target: Target{valueAtMost, 2}},
			{Key: "empty", Label: "On disk after everything was deleted and compacted", Format: mebibytes, Target: Target{valueAtMost, 160 << 20}},
			{Key: "defragment", Label: "– time in which pods were defragmented", Format: seconds},
		},
		Round: wearRound,
	}
}

func wearRound(ctx context.Context, lab *Lab, system System) (Round, error) {
	round := Round{}
	err := lab.with(ctx, system, func(c *Cluster) error {
		clients, closeAll, err := c.DialLeader(ctx, manyConnections)
		if err != nil {
			return err
		}
		defer closeAll()
		if err := fillWith(ctx, clients[:loaders], lab.Plan.WearKeys, wearValue); err != nil {
			return err
		}
		if err := overwrite(ctx, lab, c, clients, round); err != nil {
			return err
		}
		return empty(ctx, lab, c, clients[0], round)
	})
	return round, err
}

func wearValue(random *rand.Rand) []byte { return randomBytes(random, wearValueBytes) }

// overwrite is the load, and what the disks see of it.
func overwrite(ctx context.Context, lab *Lab, c *Cluster, clients []Client, round Round) error {
	var done atomic.Int64
	load := Load{
		Callers: manyCallers, Clients: clients, Warmup: wearShare * lab.Plan.Warmup, Duration: wearShare * lab.Plan.Duration,
		Call: func(ctx context.Context, client Client, random *rand.Rand) error {
			err := client.Put(ctx, numberedKey(random.IntN(lab.Plan.WearKeys)), wearValue(random))
			if err == nil {
				done.Add(1)
			}
			return err
		},
	}
	var before, writes, largest int64
	var failure error
	load.During = func() { before, failure = c.Written(); writes = done.Load() }
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var wait sync.WaitGroup
	wait.Go(func() {
		for pause(watching, time.Second) == nil {
			if size, err := c.Disk(); err == nil {
				largest = max(largest, size)
			}
		}
	})
	wait.Go(func() {
		for pause(watching, wearCompact) == nil {
			if err := clients[0].Compact(watching, numberedKey(0), wearKeep); err != nil && watching.Err() == nil {
				lab.Notes = append(lab.Notes, fmt.Sprintf("wear, %s: a compaction failed: %v", c.System.Name(), err))
			}
		}
	})
	sample, err := load.Run(ctx, c)
	after, counted := c.Written()
	writes = done.Load() - writes
	stop()
	wait.Wait()
	if err := errors.Join(err, failure, counted); err != nil {
		return err
	}
	lab.note("wear", c.System, sample)
	const userBytes = wearKeyBytes + wearValueBytes
	round.addSample("", sample)
	round.add("written", float64(after-before)/float64(writes*userBytes*podCount))
	round.add("disk", float64(largest)/float64(lab.Plan.WearKeys*userBytes))
	return nil
}

// empty deletes all keys, and waits for the room that they took.
func empty(ctx context.Context, lab *Lab, c *Cluster, client Client, round Round) error {
	for from := 0; from < lab.Plan.WearKeys; from += wearDeletes {
		if err := client.Delete(ctx, numberedKey(from), numberedKey(from+wearDeletes)); err != nil {
			return err
		}
	}
	if err := client.Compact(ctx, numberedKey(0), 0); err != nil {
		return err
	}
	began := time.Now()
	for i := range c.Pods {
		each, closer, err := c.Dial(i)
		if err != nil {
			return err
		}
		err = each.Defragment(ctx)
		closer()
		if err != nil {
			return err
		}
	}
	round.add("defragment", time.Since(began).Seconds())
	if err := pause(ctx, wearAfter); err != nil {
		return err
	}
	size, err := c.Disk()
	round.add("empty", float64(size))
	return err
}
