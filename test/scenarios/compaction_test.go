//go:build linux

package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/batondb/baton/client"
)

const (
	historyKeys     = 40_000
	historyVersions = 10
	// slowestPercentile is the promise.
	slowestPercentile = time.Second
)

// Nine of ten versions are removed from the files, to the last one, while
// clients write: 99 of 100 writes take less than a second.
//
// Scenario: S36
func TestS36Compaction(t *testing.T) {
	s := newCluster(t, 3)
	c, err := client.New(client.Options{Endpoints: []string{s.pods[s.master()].host + ":7400"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // Nothing is under way.
	newest := s.writeHistory(c)
	ctx, stop := context.WithCancel(t.Context())
	latencies := make(chan []time.Duration, writers)
	for i := range writers {
		go func() { latencies <- s.timeWrites(ctx, c, fmt.Sprintf("writer-%d", i)) }()
	}
	for _, p := range s.pods {
		if p.freePart() >= 0.5 {
			t.Fatalf("%s: the file is half empty already", p.Name)
		}
	}
	if err := c.Compact(ctx, newest); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.eventually("every file has let go of the old versions", 3*time.Minute, func() error {
		for _, p := range s.pods {
			if free := p.freePart(); free < 0.5 {
				return fmt.Errorf("%s: %.2f of the file is free", p.Name, free)
			}
		}
		return nil
	})
	stop()
	var all []time.Duration
	for range writers {
		all = append(all, <-latencies...)
	}
	if len(all) < enough {
		t.Fatalf("only %d writes beside the compaction", len(all))
	}
	slices.Sort(all)
	slowest := all[len(all)*99/100]
	t.Logf("%d versions went in %s; beside it %d writes: median %s, 99th percentile %s, slowest %s", historyKeys*(historyVersions-1),
		time.Since(began).Round(time.Millisecond), len(all), all[len(all)/2], slowest, all[len(all)-1])
	if slowest >= slowestPercentile {
		t.Errorf("the 99th percentile of the writes is %s", slowest)
	}
	s.checkLogs()
	s.sameHash(t.Context(), newest)
}

// writeHistory writes every key many times, and returns the newest revision.
func (s *set) writeHistory(c *client.Client) (newest int64) {
	s.t.Helper()
	b, err := c.NewBatcher(client.BatchOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer b.Close() //nolint:errcheck // Flush has told.
	var mu sync.Mutex
	value := bytes.Repeat([]byte("v"), 256)
	for range historyVersions {
		for k := range historyKeys {
			err := b.PutAsync(s.t.Context(), fmt.Sprintf("key-%05d", k), value, func(revision int64, err error) {
				mu.Lock()
				defer mu.Unlock()
				newest = max(newest, revision)
				if err != nil {
					s.t.Error(err)
				}
			})
			if err != nil {
				s.t.Fatal(err)
			}
		}
	}
	if err := b.Flush(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return newest
}

// timeWrites returns how long each write took until ctx has ended.
func (s *set) timeWrites(ctx context.Context, c *client.Client, key string) (took []time.Duration) {
	for ctx.Err() == nil {
		began := time.Now()
		if _, err := c.Put(context.WithoutCancel(ctx), key, []byte(strconv.Itoa(len(took)))); err != nil {
			s.t.Error(err)
			break
		}
		took = append(took, time.Since(began))
		time.Sleep(pace)
	}
	return took
}

// freePart is how much of the database file holds nothing.
func (p *pod) freePart() float64 {
	return p.metric("baton_store_file_free_bytes") / max(1, p.metric("baton_store_file_bytes"))
}

// metric is the value of one that has no labels; 0 when the pod does not say.
func (p *pod) metric(name string) float64 {
	text, _, err := p.get("/metrics")
	if err != nil {
		return 0
	}
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		return 0
	}
	value, _ := strconv.ParseFloat(found[1], 64)
	return value
}
