package security

import (
	"context"
	"net"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

// halfOpen keeps as many half-open greetings at a pod's peer port as it is let, from
// 127.0.0.2, until ctx ends.
func halfOpen(ctx context.Context, p *cluster.Pod, of int) {
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range of {
		go func() {
			for ctx.Err() == nil {
				time.Sleep(500 * time.Millisecond) // The pod is down, or has had enough.
				conn, err := from.DialContext(ctx, "tcp", p.Peer)
				if err != nil {
					continue
				}
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				_, _ = conn.Write([]byte{0x16, 3, 1, 2, 0}) // A ClientHello of 512 bytes, which does not follow.
				_, _ = conn.Read(make([]byte, 1))
				stop()
				_ = conn.Close()
			}
		}()
	}
}

// failOver kills the master and returns how long no write was possible.
func failOver(t *testing.T, c *cluster.Cluster) time.Duration {
	t.Helper()
	old := c.AwaitMaster(t)
	var other *cluster.Pod
	for _, p := range c.Pods {
		if p != old {
			other = p
		}
	}
	cluster.Kill(old)
	took := cluster.Eventually(t, "a write after the master's end", time.Minute, func(ctx context.Context) error {
		_, err := kvv1.NewKVServiceClient(other.Conn()).Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")})
		return err
	})
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.AwaitWhole(ctx, time.Minute); err != nil {
		t.Fatal(err)
	}
	return took
}

// Beside 256 half-open greetings at every pod, which are begun anew as they end,
// a fail-over takes no more than an election longer: it took up to nine seconds.
func TestFailOverBesideHalfOpenGreetings(t *testing.T) {
	c := cluster.Run(t, 3)
	quiet := max(failOver(t, c), failOver(t, c), failOver(t, c))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, p := range c.Pods {
		halfOpen(ctx, p, 256)
	}
	attacked := max(failOver(t, c), failOver(t, c), failOver(t, c))
	t.Logf("the longest of three fail-overs took %s, and %s under attack", quiet, attacked)
	if attacked > 2*quiet+2*time.Second {
		t.Errorf("a fail-over takes %s instead of %s", attacked, quiet)
	}
}
