package etcd

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/etcd/servers"
)

// TestWritesThroughRollOut: pods that stop and start one after the other make no
// write of etcd's client fail.
func TestWritesThroughRollOut(t *testing.T) {
	pods := servers.Baton(t, 3)
	client, err := clientv3.New(clientv3.Config{Endpoints: pods.Endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var written atomic.Int64
	for i := range 10 {
		writers.Go(func() {
			for ctx.Err() == nil {
				attempt, end := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
				_, err := client.Put(attempt, fmt.Sprint("key-", i), "value")
				end()
				if err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
				written.Add(1)
			}
		})
	}
	for _, pod := range pods.Pods {
		if err := cluster.Stop(pod); err != nil {
			t.Errorf("%s: %v", pod.Name, err)
		}
		servers.Start(t, pod)
	}
	cancel()
	writers.Wait()
	if n := written.Load(); n < 100 {
		t.Errorf("only %d writes", n)
	}
}
