package node

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication/internal/machinetest"
)

// idleMachine keeps only its position: the benchmarks measure the log.
type idleMachine struct{ machinetest.Machine }

func (m *idleMachine) Apply(index, term uint64, commands []*kvv1.Command) []*kvv1.Result {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.State.At.Index, m.State.At.Term = index, term
	results := make([]*kvv1.Result, len(commands))
	for i := range results {
		results[i] = idleResult
	}
	return results
}

var idleResult = &kvv1.Result{Result: &kvv1.Result_Put{Put: &kvv1.PutResponse{Header: &kvv1.ResponseHeader{Revision: 1}}}}

func benchmarkPropose(b *testing.B, pods, callers int, forward bool) {
	c := newCluster(b, pods)
	c.idle = true
	c.boot()
	p := c.master()
	if forward {
		p = c.follower()
	}
	value := strings.Repeat("v", 256)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if _, err := p.node.Propose(ctx, machinetest.PutCommand("key", value)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
}

func BenchmarkPropose(b *testing.B) {
	for _, pods := range []int{1, 3} {
		for _, callers := range []int{1, 1000} {
			b.Run(fmt.Sprintf("pods=%d/callers=%d", pods, callers), func(b *testing.B) {
				benchmarkPropose(b, pods, callers, false)
			})
		}
	}
	for _, callers := range []int{1, 1000} {
		b.Run(fmt.Sprintf("pods=3/forwarded/callers=%d", callers), func(b *testing.B) {
			benchmarkPropose(b, 3, callers, true)
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, callers := range []int{1, 1000} {
		for _, where := range []string{"master", "follower"} {
			b.Run(fmt.Sprintf("%s/callers=%d", where, callers), func(b *testing.B) {
				c := newCluster(b, 3)
				c.idle = true
				c.boot()
				p := c.master()
				if where == "follower" {
					p = c.follower()
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range callers {
					wg.Go(func() {
						for next.Add(1) <= int64(b.N) {
							if err := p.node.LinearizableRead(context.Background()); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}
