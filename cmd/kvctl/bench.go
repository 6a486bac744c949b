package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
)

const (
	benchPrefix = "kvctl-bench/"
	// benchKeys is how many keys the writes are spread over.
	benchKeys = 100_000
	// benchReadKeys is how many keys bench get writes, to read them.
	benchReadKeys = 1000
)

// bench is one run of kvctl bench.
type bench struct {
	app         *app
	clients     int
	connections int
	total       int
	valueSize   int
	batch       bool

	pool []*client.Client
}

func newBench(a *app) *cobra.Command {
	b := &bench{app: a}
	put := b.verb("put", "Measure writes", b.put, `  kvctl bench put --clients 1000 --connections 10 --total 100000
  kvctl bench put --batch --clients 10000 --total 1000000`)
	put.Flags().BoolVar(&b.batch, "batch", false, "gather the writes into batches over one stream")
	get := b.verb("get", "Measure linearizable reads", b.get, `  kvctl bench get --clients 100 --total 100000
  kvctl bench get -o json`)
	watch := b.verb("watch", "Measure how long a change takes to its watchers", b.watch, `  kvctl bench watch --clients 100 --total 1000
  kvctl bench watch --clients 1000 --connections 10 --total 100`)
	return group(&cobra.Command{
		Use: "bench", Short: "Measure a cluster",
		Long: `Measure a cluster with many callers at once. It writes keys that start with
` + benchPrefix + ` and leaves them; kvctl del --prefix ` + benchPrefix + ` removes them.`,
		Example: `  kvctl bench put --clients 100 --total 100000
  kvctl bench get --clients 100 --total 100000`,
	}, put, get, watch)
}

func (b *bench) verb(use, short string, run func(context.Context) (*benchResult, error), example string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return b.run(cmd, run) },
	}
	f := cmd.Flags()
	f.IntVar(&b.clients, "clients", 100, "how many call at once")
	f.IntVar(&b.connections, "connections", 1, "how many connections to each pod they share")
	f.IntVar(&b.total, "total", 10_000, "how many calls there are in all (of watch: changes)")
	f.IntVar(&b.valueSize, "value-size", 256, "bytes of a value")
	noFiles(cmd, "clients", "connections", "total", "value-size")
	return cmd
}

func (b *bench) run(cmd *cobra.Command, measure func(context.Context) (*benchResult, error)) error {
	if b.clients < 1 || b.connections < 1 || b.total < 1 || b.valueSize < 0 || b.valueSize > maxValueBytes {
		return usagef(cmd, "--clients, --connections and --total must be at least 1, --value-size 0 to %d", maxValueBytes)
	}
	for range b.connections {
		c, err := b.app.connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := b.app.checkReachable(cmd, c); err != nil {
			return err
		}
		b.pool = append(b.pool, c)
	}
	result, err := measure(cmd.Context())
	if err != nil {
		return err
	}
	return b.print(result)
}

// benchResult is what was measured.
type benchResult struct {
	latencies []time.Duration
	took      time.Duration
}

// each makes total calls from as many goroutines as there are clients, and measures
// each call. The first error ends them all.
func (b *bench) each(ctx context.Context, call func(ctx context.Context, c *client.Client, i int) error) (*benchResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &benchResult{latencies: make([]time.Duration, b.total)}
	var next atomic.Int64
	var tasks sync.WaitGroup
	start := time.Now()
	for worker := range b.clients {
		c := b.pool[worker%len(b.pool)]
		tasks.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.total || ctx.Err() != nil {
					return
				}
				began := time.Now()
				if err := b.one(ctx, c, i, call); err != nil {
					cancel(err)
					return
				}
				r.latencies[i] = time.Since(began)
			}
		})
	}
	tasks.Wait()
	r.took = time.Since(start)
	return r, context.Cause(ctx)
}

func (b *bench) one(ctx context.Context, c *client.Client, i int, call func(context.Context, *client.Client, int) error) error {
	ctx, cancel := context.WithTimeout(ctx, b.app.timeout)
	defer cancel()
	return call(ctx, c, i)
}

func (b *bench) key(i int) string { return fmt.Sprintf("%s%08d", benchPrefix, i%benchKeys) }

func (b *bench) put(ctx context.Context) (*benchResult, error) {
	value := make([]byte, b.valueSize)
	if !b.batch {
		return b.each(ctx, func(ctx context.Context, c *client.Client, i int) error {
			_, err := c.Put(ctx, b.key(i), value)
			return err
		})
	}
	batchers := map[*client.Client]*client.Batcher{}
	for _, c := range b.pool {
		batcher, err := c.NewBatcher(client.BatchOptions{})
		if err != nil {
			return nil, err
		}
		defer batcher.Close()
		batchers[c] = batcher
	}
	return b.each(ctx, func(ctx context.Context, c *client.Client, i int) error {
		_, err := batchers[c].Put(ctx, b.key(i), value)
		return err
	})
}

func (b *bench) get(ctx context.Context) (*benchResult, error) {
	batcher, err := b.pool[0].NewBatcher(client.BatchOptions{})
	if err != nil {
		return nil, err
	}
	var failed error
	value := make([]byte, b.valueSize)
	for i := range benchReadKeys {
		err := batcher.PutAsync(ctx, b.key(i), value, func(_ int64, err error) { failed = errors.Join(failed, err) })
		if err != nil {
			return nil, err
		}
	}
	if err := batcher.Close(); err != nil || failed != nil {
		return nil, errors.Join(err, failed)
	}
	return b.each(ctx, func(ctx context.Context, c *client.Client, i int) error {
		_, err := c.Get(ctx, b.key(i%benchReadKeys))
		return err
	})
}

// watch writes total changes in turn, and measures how long each takes to reach each
// of the watchers, of which there are as many as clients.
func (b *bench) watch(ctx context.Context) (*benchResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	const key = benchPrefix + "watch"
	arrived := make(chan error, b.clients)
	r := &benchResult{}
	var mu sync.Mutex // guards began and r.latencies
	began := map[string]time.Time{}
	see := func(value string) {
		mu.Lock()
		defer mu.Unlock()
		r.latencies = append(r.latencies, time.Since(began[value]))
	}
	for i := range b.clients {
		c := b.pool[i%len(b.pool)]
		go func() {
			watching := false // and has said so: the first response
			for response, err := range c.Watch(ctx, client.Key(key)) {
				if err != nil {
					arrived <- err
					return
				}
				for _, e := range response.GetEvents() {
					see(string(e.GetKv().GetValue()))
				}
				arrivals := len(response.GetEvents())
				if !watching {
					watching, arrivals = true, arrivals+1
				}
				for range arrivals {
					arrived <- nil
				}
			}
		}()
	}
	if err := b.awaitAll(ctx, arrived); err != nil { // the first responses: all watch
		return nil, err
	}
	start := time.Now()
	for i := range b.total {
		value := fmt.Sprintf("%0*d", max(b.valueSize, 1), i)
		mu.Lock()
		began[value] = time.Now()
		mu.Unlock()
		if err := b.one(ctx, b.pool[0], i, func(ctx context.Context, c *client.Client, _ int) error {
			_, err := c.Put(ctx, key, []byte(value))
			return err
		}); err != nil {
			return nil, err
		}
		if err := b.awaitAll(ctx, arrived); err != nil {
			return nil, err
		}
	}
	r.took = time.Since(start)
	return r, nil
}

// awaitAll waits until every watcher has reported once.
func (b *bench) awaitAll(ctx context.Context, arrived <-chan error) error {
	for range b.clients {
		select {
		case err := <-arrived:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (b *bench) print(r *benchResult) error {
	slices.Sort(r.latencies)
	at := func(p float64) time.Duration {
		return r.latencies[min(int(p*float64(len(r.latencies))), len(r.latencies)-1)]
	}
	rate := float64(len(r.latencies)) / r.took.Seconds()
	if b.app.json() {
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		return b.app.printJSON(struct {
			Count   int     `json:"count"`
			Seconds float64 `json:"seconds"`
			Rate    float64 `json:"rate_per_second"`
			P50     float64 `json:"p50_ms"`
			P90     float64 `json:"p90_ms"`
			P99     float64 `json:"p99_ms"`
			P999    float64 `json:"p999_ms"`
			Max     float64 `json:"max_ms"`
		}{len(r.latencies), r.took.Seconds(), rate, ms(at(0.5)), ms(at(0.9)), ms(at(0.99)), ms(at(0.999)), ms(at(1))})
	}
	b.app.printf("%d in %v: %.0f/s\n", len(r.latencies), r.took.Round(time.Millisecond), rate)
	t := table{}
	t.row("P50", "P90", "P99", "P99.9", "MAX")
	t.row(short(at(0.5)), short(at(0.9)), short(at(0.99)), short(at(0.999)), short(at(1)))
	t.writeTo(b.app.out)
	return nil
}

func short(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}
