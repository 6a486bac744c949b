package clients

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/batondb/baton/test/etcd/servers"
)

// increment adds 1 to two counters, once however often it is repeated.
func increment(ctx context.Context, client *clientv3.Client, id string, counters ...string) error {
	return again(ctx, func() error {
		_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
			if stm.Get("done/"+id) != "" {
				return nil
			}
			for _, counter := range counters {
				n, _ := strconv.Atoi(stm.Get(counter))
				stm.Put(counter, strconv.Itoa(n+1))
			}
			stm.Put("done/"+id, "yes")
			return nil
		}, concurrency.WithAbortContext(ctx))
		return err
	})
}

// Counters that many change at once sum up exactly, the master killed or not.
func TestSTM(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx := limited(t)
	var added atomic.Int64
	var stopped atomic.Bool
	var all sync.WaitGroup
	for g := range 8 {
		client := dial(t, pods.Endpoints()...)
		all.Go(func() {
			for i := 0; !stopped.Load(); i++ {
				counters := []string{"sum", fmt.Sprint("counter ", (g+i)%3)}
				if err := increment(ctx, client, fmt.Sprintf("%d-%d", g, i), counters...); err != nil {
					t.Error(err)
					return
				}
				added.Add(1)
			}
		})
	}
	for range 2 {
		killMaster(t, pods, added.Load)
	}
	stopped.Store(true)
	all.Wait()
	client := dial(t, pods.Endpoints()...)
	read := func(key string) (n int64) {
		r, err := client.Get(ctx, key)
		if err != nil || len(r.Kvs) != 1 {
			t.Fatal(r, err)
		}
		n, _ = strconv.ParseInt(string(r.Kvs[0].Value), 10, 64)
		return n
	}
	parts := read("counter 0") + read("counter 1") + read("counter 2")
	if sum := read("sum"); sum != added.Load() || parts != sum {
		t.Errorf("the sum is %d, the parts %d, and %d were added", sum, parts, added.Load())
	}
}
