package differential

import (
	"context"
	"flag"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/batondb/baton/test/etcd/answers"
	"github.com/batondb/baton/test/etcd/servers"
)

var (
	seed     = flag.Uint64("seed", 0, "of the requests; 0: one of the clock")
	requests = flag.Int("requests", 10_000, "how many")
)

const (
	// streams of watches are open at any time; one ends, and another one begins,
	// every so many requests.
	streams     = 6
	streamEvery = 60
	// maxDifferences end a test: those that follow are of the first.
	maxDifferences = 3
)

// comparison is one run.
type comparison struct {
	*testing.T
	*generator
	etcd        *grpc.ClientConn
	baton       []*grpc.ClientConn
	master      int
	watches     []*watched
	refused     map[string]int
	events      int
	differences int
}

func compare(t *testing.T, seed uint64) *comparison {
	c := &comparison{T: t, generator: newGenerator(seed), refused: map[string]int{}}
	c.etcd = servers.Etcd(t).Pods[0].Conn()
	baton := servers.Baton(t, 3)
	master := baton.AwaitMaster(t)
	for i, p := range baton.Pods {
		c.baton = append(c.baton, p.Conn())
		if p == master {
			c.master = i
		}
	}
	return c
}

func (c *comparison) differ(format string, args ...any) {
	c.Helper()
	c.Errorf(format, args...)
	if c.differences++; c.differences == maxDifferences {
		c.FailNow()
	}
}

// request sends one to both systems at the same time.
func (c *comparison) request(n int) {
	r, pod := c.next(), c.IntN(len(c.baton))
	if _, ok := r.message.(*pb.CompactionRequest); ok {
		c.drain() // Or a watch would be too late for a previous value.
	}
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	if r.stale() {
		if c.chance(70) {
			pod = c.master // It is up to date the soonest.
		}
		if err := catchUp(ctx, c.baton[pod]); err != nil {
			c.Fatal(err)
		}
	}
	done := make(chan answers.Answer)
	go func() { done <- r.send(ctx, c.etcd) }()
	baton := r.send(ctx, c.baton[pod])
	etcd := <-done
	if !etcd.Equal(baton) {
		c.differ("request %d to pod %d, seed %d:\n%v\netcd:  %v\nbaton: %v", n, pod, *seed, r, etcd, baton)
	}
	if etcd.Err != nil {
		c.refused[etcd.String()]++
	}
	c.learn(r, etcd)
}

func (c *comparison) watch() {
	w, err := newWatched(c.Context(), c.etcd, c.baton[c.IntN(len(c.baton))], c.generator.watches())
	if err != nil {
		c.Fatal(err)
	}
	c.watches = append(c.watches, w)
}

// drain makes all watches hear everything.
func (c *comparison) drain() {
	for _, w := range c.watches {
		if err := w.drain(c.revision); err != nil {
			c.Fatalf("seed %d: %v\n%s", *seed, err, w.difference())
		}
	}
}

// unwatch ends the oldest stream.
func (c *comparison) unwatch(n int) {
	w := c.watches[0]
	c.watches = c.watches[1:]
	if err := w.drain(c.revision); err != nil {
		c.Fatalf("request %d, seed %d: %v\n%s", n, *seed, err, w.difference())
	}
	if d := w.difference(); d != "" {
		c.differ("watches before request %d, seed %d:\n%s", n, *seed, d)
	}
	for _, h := range w.baton.heard {
		c.events += len(h.events)
	}
	w.end()
}

func TestSameAnswers(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d -requests %d", *seed, *requests)
	c := compare(t, *seed)
	for range streams {
		c.watch()
	}
	for n := range *requests {
		c.request(n)
		if n%streamEvery == 0 {
			c.unwatch(n)
			c.watch()
		}
	}
	for range streams {
		c.unwatch(*requests)
	}
	t.Logf("%d requests, up to revision %d; %d events; refused: %v", *requests, c.revision, c.events, c.refused)
}
