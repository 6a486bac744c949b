package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/batondb/baton/client"
)

// producers is how many goroutines give writes to one Batcher.
const producers = 4

func batchMeasurement() Measurement {
	return Measurement{
		Name:    "batch",
		Summary: "many small writes through the Go client's Batcher, against etcd's best rate of writes",
		About: `Baton's Go client gathers small independent writes into messages on one stream (` + "`client.Batcher`" + `); each is
still a write of its own, with its own revision and its own answer. Its rate is compared with etcd's best rate of single
writes: unary calls by 1,000 callers on 100 connections. *Asynchronous* is a program of 4 goroutines that hand writes to one
Batcher and get the answers in a callback; *waiting* is 1,000 goroutines that share one Batcher and wait for each answer.
The last row is not a single write: it is the number of keys a second in transactions of 128 puts, which is the way to write
fast that etcd has, and in which all or none are written.`,
		Metrics: []Metric{
			{Key: "async/rate", Label: "Writes, Batcher, asynchronous (etcd: unary)", Format: perSecond, Target: Target{ratioAtLeast, 5}},
			{Key: "async/p50", Label: "– median latency", Format: milliseconds},
			{Key: "async/p99", Label: "– 99th percentile", Format: milliseconds},
			{Key: "async/cpu", Label: "– processor time of the pods for 1,000 writes", Format: milliseconds},
			{Key: "wait/rate", Label: "Writes, Batcher, 1,000 waiting (etcd: unary)", Format: perSecond},
			{Key: "wait/p50", Label: "– median latency", Format: milliseconds},
			{Key: "wait/p99", Label: "– 99th percentile", Format: milliseconds},
			{Key: "wait/cpu", Label: "– processor time of the pods for 1,000 writes", Format: milliseconds},
			{Key: "txn/rate", Label: "Keys in transactions of 128 puts, 8 callers", Format: perSecond},
		},
		Round: batchRound,
	}
}

func batchRound(ctx context.Context, lab *Lab, system System) (Round, error) {
	round := Round{}
	err := lab.with(ctx, system, func(c *Cluster) error {
		if err := fill(ctx, c, lab.Plan.Keys); err != nil {
			return err
		}
		if err := txnLoad(ctx, lab, c, round); err != nil {
			return err
		}
		if _, ok := system.(*Baton); ok {
			return batcherLoads(ctx, lab, c, round)
		}
		return unaryLoad(ctx, lab, c, round)
	})
	return round, err
}

// unaryLoad is etcd's best rate of single writes, for both kinds of callers.
func unaryLoad(ctx context.Context, lab *Lab, c *Cluster, round Round) error {
	clients, closeAll, err := c.DialLeader(ctx, manyConnections)
	if err != nil {
		return err
	}
	defer closeAll()
	load := Load{Callers: manyCallers, Clients: clients, Warmup: lab.Plan.Warmup, Duration: lab.Plan.Duration, Call: putCall(lab.Plan.Keys)}
	s, err := load.Run(ctx, c)
	lab.note("batch, unary writes", c.System, s)
	round.addSample("async/", s)
	round.addSample("wait/", s)
	return err
}

// txnLoad is the rate of keys in large transactions.
func txnLoad(ctx context.Context, lab *Lab, c *Cluster, round Round) error {
	clients, closeAll, err := c.DialLeader(ctx, loaders)
	if err != nil {
		return err
	}
	defer closeAll()
	load := Load{
		Callers: loaders, Clients: clients, Warmup: lab.Plan.Warmup / 2, Duration: lab.Plan.Duration / 2,
		Call: func(ctx context.Context, client Client, random *rand.Rand) error {
			// Neighbouring keys: no key may be written twice in a transaction.
			first := random.IntN(lab.Plan.Keys - bulkSize)
			pairs := make([]Pair, bulkSize)
			for i := range pairs {
				pairs[i] = Pair{numberedKey(first + i), randomValue(random)}
			}
			return client.PutMany(ctx, pairs)
		},
	}
	s, err := load.Run(ctx, c)
	lab.note("batch, transactions", c.System, s)
	round.add("txn/rate", s.Rate*bulkSize)
	return err
}

// batcherLoads measures the Go client's Batcher in both ways of using it.
func batcherLoads(ctx context.Context, lab *Lab, c *Cluster, round Round) error {
	var endpoints []string
	for _, p := range c.Pods {
		endpoints = append(endpoints, p.Client)
	}
	database, err := client.New(client.Options{Endpoints: endpoints, TLS: c.security.tls, DialOptions: c.security.options()})
	if err != nil {
		return err
	}
	defer database.Close()
	batcher, err := database.NewBatcher(client.BatchOptions{})
	if err != nil {
		return err
	}
	defer batcher.Close()
	s, err := asyncLoad(ctx, lab, c, batcher)
	if err != nil {
		return err
	}
	lab.note("batch, asynchronous", c.System, s)
	round.addSample("async/", s)

	load := Load{
		Callers: manyCallers, Clients: []Client{nil}, Warmup: lab.Plan.Warmup, Duration: lab.Plan.Duration,
		Call: func(ctx context.Context, _ Client, random *rand.Rand) error {
			_, err := batcher.Put(ctx, string(numberedKey(random.IntN(lab.Plan.Keys))), randomValue(random))
			return err
		},
	}
	s, err = load.Run(ctx, c)
	lab.note("batch, waiting", c.System, s)
	round.addSample("wait/", s)
	return err
}

// answers collects the outcomes of asynchronous writes.
type answers struct {
	mu sync.Mutex // guards seen
	caller
}

// asyncLoad hands writes to a Batcher as fast as it takes them.
func asyncLoad(ctx context.Context, lab *Lab, c *Cluster, batcher *client.Batcher) (Sample, error) {
	profiles, err := prepareProfiles(ctx, lab, c, "batch")
	if err != nil {
		return Sample{}, err
	}
	defer profiles.wait()
	load := Load{Warmup: lab.Plan.Warmup, Duration: lab.Plan.Duration, During: profiles.start}
	begin := time.Now().Add(load.Warmup)
	end := begin.Add(load.Duration)
	var seen answers
	var wait sync.WaitGroup
	for i := range producers {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			for ctx.Err() == nil && time.Now().Before(end) {
				seen.write(ctx, batcher, string(numberedKey(random.IntN(lab.Plan.Keys))), randomValue(random), begin, end)
			}
		})
	}
	cpu, err := load.watch(ctx, c, begin, end)
	wait.Wait()
	if err == nil {
		err = batcher.Flush(ctx)
	}
	if err != nil {
		return Sample{}, err
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	return load.summary([]caller{{slices.Clone(seen.latencies), seen.failed, seen.failure}}, cpu), nil
}

// write makes one write, and records its answer when that comes in time.
func (a *answers) write(ctx context.Context, batcher *client.Batcher, key string, value []byte, begin, end time.Time) {
	from := time.Now()
	done := func(_ int64, err error) {
		to := time.Now()
		a.mu.Lock()
		defer a.mu.Unlock()
		switch {
		case err != nil:
			a.failed, a.failure = a.failed+1, err
		case to.After(begin) && to.Before(end):
			a.latencies = append(a.latencies, to.Sub(from))
		}
	}
	if err := batcher.PutAsync(ctx, key, value, done); err != nil {
		done(0, err)
	}
}
