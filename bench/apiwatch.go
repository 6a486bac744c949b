package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	watchedKey = "bench-watched"
	// watchedEvery is slow enough that no event waits for the one before it.
	watchedEvery = 100 * time.Millisecond
	// watchedPatience is what late events get to arrive at the end.
	watchedPatience = 5 * time.Second
)

// watchLoad measures how long the events of one key take to 1,000 watchers.
func watchLoad(ctx context.Context, lab *Lab, c *Cluster, round Round) error {
	clients, closeAll, err := c.dialEtcd(manyConnections, 0, 1, 2)
	if err != nil {
		return err
	}
	defer closeAll()
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	writer := clients[leader] // The first three are connected to the pods in order.
	profiles, err := prepareProfiles(ctx, lab, c, "api-watch")
	if err != nil {
		return err
	}
	defer profiles.wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchers := make([]watcher, manyCallers)
	var open, ended sync.WaitGroup
	for i := range watchers {
		events := clients[i%len(clients)].Watch(ctx, watchedKey, clientv3.WithCreatedNotify())
		open.Add(1)
		ended.Go(func() { watchers[i].run(events, open.Done) })
	}
	open.Wait()

	load := Load{Warmup: lab.Plan.Warmup / 3, Duration: lab.Plan.Duration, During: profiles.start}
	begin := time.Now().Add(load.Warmup)
	end := begin.Add(load.Duration)
	var written int
	var writing error
	ended.Go(func() {
		written, writing = writeWatched(ctx, writer, begin, end)
		if writing == nil {
			writing = pause(ctx, watchedPatience)
		}
		cancel()
	})
	cpu, err := load.watch(ctx, c, begin, end)
	ended.Wait()
	if err = errors.Join(writing, err); err != nil {
		return err
	}
	callers := make([]caller, len(watchers))
	for i := range watchers {
		callers[i] = watchers[i].counted(begin, end)
	}
	s := load.summary(callers, cpu)
	if s.Failed = written*len(watchers) - int(s.Rate*load.Duration.Seconds()+0.5); s.Failed != 0 {
		s.Failure = fmt.Errorf("of %d writes, not every watcher had every event", written)
	}
	lab.note("api, watch", c.System, s)
	round.addSample("watch/", s)
	return nil
}

// writeWatched writes the time, again and again, and says how many writes count.
func writeWatched(ctx context.Context, client *clientv3.Client, begin, end time.Time) (written int, err error) {
	tick := time.NewTicker(watchedEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return written, ctx.Err()
		}
		now := time.Now()
		if now.After(end) {
			return written, nil
		}
		if now.After(begin) {
			written++
		}
		if _, err := client.Put(ctx, watchedKey, strconv.FormatInt(now.UnixNano(), 10)); err != nil {
			return written, err
		}
	}
}

// watcher notes when each event came.
type watcher struct {
	sent    []time.Time
	latency []time.Duration
}

func (w *watcher) run(events clientv3.WatchChan, opened func()) {
	for r := range events {
		now := time.Now()
		if r.Created {
			opened()
		}
		for _, event := range r.Events {
			nanoseconds, err := strconv.ParseInt(string(event.Kv.Value), 10, 64)
			if err != nil {
				continue // Not of this load: it will be missed.
			}
			sent := time.Unix(0, nanoseconds)
			w.sent, w.latency = append(w.sent, sent), append(w.latency, now.Sub(sent))
		}
	}
}

// counted are the events of writes that were sent while the load was counted.
func (w *watcher) counted(begin, end time.Time) caller {
	var c caller
	for i, sent := range w.sent {
		if sent.After(begin) && !sent.After(end) {
			c.latencies = append(c.latencies, w.latency[i])
		}
	}
	return c
}
