package e2e

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/test/history"
)

const (
	// valueBytes is the size of one value of fill: few calls for much data.
	valueBytes = 64 << 10
	fillers    = 8
	// fillPatience: a disk that writes all of it twice on three pods.
	fillPatience = 10 * time.Minute
)

// fill writes so much data, recorded as the load's writes are.
func (c *Cluster) fill(bytes int) {
	c.t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), fillPatience)
	defer cancel()
	var all sync.WaitGroup
	for filler := range fillers {
		made, err := newClient(c.service("kv-client"))
		if err != nil {
			c.t.Fatal(err)
		}
		all.Go(func() {
			defer made.Close() //nolint:errcheck // Nothing is left to be lost.
			for n := filler; n < bytes/valueBytes && ctx.Err() == nil; n += fillers {
				c.fillOne(made, n)
			}
		})
	}
	all.Wait()
	c.t.Logf("wrote %d MiB in %v", bytes>>20, time.Since(start).Round(time.Second))
}

func (c *Cluster) fillOne(to *client.Client, n int) {
	key := fmt.Sprintf("data/%d", n)
	value := history.Padded(fmt.Sprintf("data-%d", n), valueBytes)
	op := &history.Op{Client: writers + readers, Name: "fill", Writes: []history.Write{{Key: key, Value: value}}}
	c.load.record(op, func(ctx context.Context) (history.Answer, error) {
		r, err := to.Put(ctx, key, history.Expand(value))
		return history.NewAnswer(r.GetHeader()), err
	})
}
