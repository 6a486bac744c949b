package process

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/test/cluster"
)

// A cluster without TLS gets it by two roll-outs, pod after pod, and no write fails:
// in the first one pods talk both ways, after the second one only with certificates.
func TestRollOutOfTLS(t *testing.T) {
	c, err := cluster.New(t.TempDir(), cluster.Program(t, cluster.Kvd), pods)
	if err != nil {
		t.Fatal(err)
	}
	certified := map[*cluster.Pod][]string{}
	for _, p := range c.Pods {
		certified[p] = p.Command
		p.Command = plain(p.Command)
	}
	c.EndWith(t)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	whole(t, c)
	stop := writeAll(t, c)
	rollOut := func(what string, command func(p *cluster.Pod) []string) {
		t.Helper()
		for i := len(c.Pods) - 1; i >= 0; i-- { // as a StatefulSet does
			p := c.Pods[i]
			if err := cluster.Stop(p); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			p.Command = command(p)
			start(t, p)
			whole(t, c)
		}
	}
	rollOut("both ways", func(p *cluster.Pod) []string { return append(certified[p], "--certs-migrate") })
	for _, p := range c.Pods {
		if !strings.Contains(p.Printed(), "roll out once more without --certs-migrate") {
			t.Errorf("%s does not say that a second roll-out is needed", p.Name)
		}
	}
	rollOut("TLS", func(p *cluster.Pod) []string { return certified[p] })
	writes, errs := stop()
	t.Logf("%d writes", writes)
	for _, err := range errs[:min(len(errs), 5)] {
		t.Error(err)
	}
	for _, p := range c.Pods {
		text, _, err := p.Get(t.Context(), "/readyz?verbose")
		if err != nil || strings.Contains(text, "also without TLS") {
			t.Errorf("%s: %v, %s", p.Name, err, text)
		}
	}
	// A pod that has not been moved over is let in no more.
	old := c.Pods[2]
	if err := cluster.Stop(old); err != nil {
		t.Fatal(err)
	}
	old.Command = plain(certified[old])
	start(t, old)
	cluster.Eventually(t, "the pod without TLS is refused, and the others say why", cluster.Patience, func(context.Context) error {
		if !strings.Contains(c.Pods[0].Printed()+c.Pods[1].Printed(), "it speaks no TLS") {
			return fmt.Errorf("nobody says so")
		}
		return nil
	})
	if err := old.Ready(t.Context()); err == nil {
		t.Error("the pod without TLS is ready")
	}
}

// plain is the same pod without TLS.
func plain(command []string) []string {
	var all []string
	for i := 0; i < len(command); i++ {
		if command[i] == "--certs" {
			i++
			continue
		}
		all = append(all, command[i])
	}
	return append(all, "--insecure-peers")
}

// writeAll writes through the Go client, which repeats what it may, until it is
// stopped.
func writeAll(t *testing.T, c *cluster.Cluster) (stop func() (writes int, errs []error)) {
	t.Helper()
	kv, err := client.New(client.Options{Endpoints: c.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kv.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	var mu sync.Mutex // guards writes and errs
	var writes int
	var errs []error
	for i := range 4 {
		tasks.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				call, done := context.WithTimeout(context.Background(), cluster.Patience)
				_, err := kv.Put(call, fmt.Sprintf("w/%d", i), fmt.Append(nil, n))
				done()
				mu.Lock()
				if writes++; err != nil {
					errs = append(errs, err)
				}
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return func() (int, []error) {
		cancel()
		tasks.Wait()
		return writes, errs
	}
}
