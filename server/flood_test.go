package server

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/rawgrpc"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server/audit"
)

// connections are a client's.
func (p *fakePod) connections(t *testing.T) []*grpc.ClientConn {
	t.Helper()
	conns := make([]*grpc.ClientConn, 4)
	for i := range conns {
		conns[i] = dial(t, p.port)
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns
}

// writes are how many of a client's writes were sent and let through, and how long the
// slowest of these took.
type writes struct {
	sent, passed int
	slowest      time.Duration
}

// write writes at a rate, whether or not what it wrote before is answered.
func write(as context.Context, conns []*grpc.ClientConn, perSecond int, during time.Duration) (w writes) {
	var running sync.WaitGroup
	var mu sync.Mutex // guards w
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for end := time.Now().Add(during); time.Now().Before(end); w.sent++ {
		due := <-tick.C
		to := kvv1.NewKVServiceClient(conns[w.sent%len(conns)])
		running.Go(func() {
			_, err := to.Put(as, &kvv1.PutRequest{Key: []byte("k")})
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			w.passed++
			w.slowest = max(w.slowest, time.Since(due))
		})
	}
	running.Wait()
	return w
}

// Once a flood is over, a tenant that keeps to its rate gets it, by the same connections or
// by others. Those of the flood that are closed have much in them that nobody waits for.
func TestAfterAFlood(t *testing.T) {
	for name, test := range map[string]struct {
		times int // The rate, so often.
		close bool
	}{"by new connections": {60, true}, "by the same": {20, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const rate = 100
				p, as := tenanted(t, &kvv1.Tenant{RequestsPerSecond: rate})
				conns := p.connections(t)
				flooded := write(as("a"), conns, test.times*rate, 4*time.Second)
				if test.close {
					for _, conn := range conns {
						conn.Close()
					}
					conns = p.connections(t)
				}
				after := write(as("a"), conns, rate, 4*time.Second)
				if after.passed < after.sent*9/10 || after.slowest > time.Second {
					t.Errorf("after %+v: %+v", flooded, after)
				}
			})
		})
	}
}

// Who has shown a token on a connection is refused there before the message is read, if
// its tenant has used its rate; a call whose deadline is far away, with the message. The
// audit trail has them all. Another caller on the same connection is not refused.
func TestRefusedBeforeTheMessage(t *testing.T) {
	const put = "/baton.kv.v1.KVService/Put"
	noted := &lockedBuffer{}
	rule, err := audit.ParseRule("writes")
	if err != nil {
		t.Fatal(err)
	}
	trail, err := audit.Open(audit.Options{Rule: rule, Out: noted, Pod: "kv-0"})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := tenanted(t, &kvv1.Tenant{RequestsPerSecond: 1, BurstMs: 1000}, func(o *Options) { o.Security.Audit = trail })
	p.core.rates.now = func() time.Time { return time.Unix(1000, 0) }
	raw := rawTo(t, p)
	as := func(who string) hpack.HeaderField {
		return hpack.HeaderField{Name: "authorization", Value: "Bearer " + who + ".x.y"}
	}
	first := call(t, raw, put, &kvv1.PutRequest{Key: []byte("k")}, as("a"))
	if end, err := raw.Wait(within5s(t), first); err != nil || end.Code != codes.OK {
		t.Fatalf("the first: %+v, %v", end, err)
	}
	begun := func(more ...hpack.HeaderField) uint32 {
		t.Helper()
		id, err := raw.Begin(put, more...)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	refused := func(id uint32) {
		t.Helper()
		if end, err := raw.Wait(within5s(t), id); err != nil || end.Code != codes.ResourceExhausted || !strings.Contains(end.Message, `the tenant "room" has used its rate`) {
			t.Errorf("%+v, %v", end, err)
		}
	}
	refused(begun(as("a"), hpack.HeaderField{Name: "grpc-timeout", Value: "10S"}))
	far := begun(as("a"), hpack.HeaderField{Name: "grpc-timeout", Value: "10H"})
	other := begun(as("root"))
	refused(begun(as("a")))
	message, err := proto.Marshal(&kvv1.PutRequest{Key: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	if calls, _ := raw.Ended(); calls != 3 {
		t.Errorf("%d calls have ended", calls)
	}
	for _, id := range []uint32{far, other} {
		if err := raw.Send(id, rawgrpc.Message(message), true); err != nil {
			t.Fatal(err)
		}
	}
	refused(far)
	if end, err := raw.Wait(within5s(t), other); err != nil || end.Code != codes.OK {
		t.Errorf("another caller: %+v, %v", end, err)
	}
	p.Stop(within5s(t))
	trail.Close()
	if got := strings.Count(noted.all.String(), `"user":"a","proof":"serviceaccount","address":"127.0.0.1:`); got != 4 {
		t.Errorf("%d calls are in the trail: %s", got, noted.all.String())
	}
}
