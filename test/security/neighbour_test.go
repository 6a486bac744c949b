package security

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

const (
	// tenantRate is what the tenant may, and neighbourRate what its neighbour sends, in
	// requests a second.
	tenantRate, neighbourRate = 500, 500
	// rounds of a neighbour alone and beside the tenant, each so long: what else the
	// machine does is in both.
	rounds, roundTime = 8, 6 * time.Second
	// mayCost is by how much the neighbour's 99th percentile may rise.
	mayCost = 0.10
)

// A tenant sends ten times its rate over several connections to all pods, and does not
// wait when it is told to. Its neighbour's 99th percentile is measured beside it and
// without it, in turn.
func TestNeighbour(t *testing.T) {
	c := launch(t)
	master := c.AwaitMaster(t)
	root := administer(t, master)
	for _, name := range []string{"noisy", "neighbour"} {
		tenant := &kvv1.Tenant{Name: name, Users: []string{name}, Prefix: []byte(name + "/"), Rights: kvv1.Permission_KIND_READWRITE}
		if name == "noisy" {
			tenant.RequestsPerSecond = tenantRate
		}
		change(t, master, root, &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: name}}})
		change(t, master, root, &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: tenant}}})
	}
	noisy, neighbour := login(t, master, "noisy"), login(t, master, "neighbour")
	measure(neighbour, master, 2*time.Second) // Connections, and the first pages of the file.

	var alone, beside []latencies
	for range rounds {
		alone = append(alone, measure(neighbour, master, roundTime))
		ctx, stop := context.WithCancel(noisy)
		var flood flood
		flood.begin(t, ctx, c, 10*tenantRate)
		beside = append(beside, measure(neighbour, master, roundTime))
		stop()
		flood.running.Wait()
		if most := tenantRate * int64(roundTime/time.Second+2); flood.passed.Load() > most { // A second's burst, and one to stop.
			t.Errorf("%d of the tenant's writes were let through, over all pods, at most %d may be", flood.passed.Load(), most)
		}
		t.Logf("99th percentile alone %s, beside %s; the tenant sent %d a second, of which %d were let through",
			alone[len(alone)-1].at(0.99), beside[len(beside)-1].at(0.99),
			int64(float64(flood.sent.Load())/roundTime.Seconds()), int64(float64(flood.passed.Load())/roundTime.Seconds()))
	}
	sameUsage(t, c, root)
	without, with := all(alone), all(beside)
	cost := float64(with.at(0.99))/float64(without.at(0.99)) - 1
	t.Logf("99th percentile of all rounds: alone %s, beside %s: %+.1f %%; median %s and %s",
		without.at(0.99), with.at(0.99), 100*cost, without.at(0.5), with.at(0.5))
	if cost >= mayCost {
		t.Errorf("the tenant costs its neighbour %.1f %% at the 99th percentile", 100*cost)
	}
}

// sameUsage compares what all pods have counted.
func sameUsage(t *testing.T, c *cluster.Cluster, root context.Context) {
	t.Helper()
	var first []*kvv1.TenantStatus
	for _, p := range c.Pods {
		answer, err := kvv1.NewAuthServiceClient(p.Conn()).ListTenants(root, &kvv1.ListTenantsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = answer.GetTenants()
		}
		if !slices.EqualFunc(first, answer.GetTenants(), func(a, b *kvv1.TenantStatus) bool { return proto.Equal(a, b) && a.GetKeys() > 0 }) {
			t.Errorf("%s has counted %v, another pod %v", p.Name, answer.GetTenants(), first)
		}
	}
}

func all(rounds []latencies) latencies {
	together := slices.Concat(rounds...)
	slices.Sort(together)
	return together
}

// administer turns access control on, and returns the context of root.
func administer(t *testing.T, p *cluster.Pod) context.Context {
	t.Helper()
	for _, c := range []*kvv1.AuthChange{
		{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "root"}}},
		{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: "root", Role: "root"}}},
		{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{}}},
	} {
		change(t, p, t.Context(), c)
	}
	return login(t, p, "root")
}

const password = "geheim"

func change(t *testing.T, p *cluster.Pod, ctx context.Context, c *kvv1.AuthChange) {
	t.Helper()
	if _, err := kvv1.NewAuthServiceClient(p.Conn()).ChangeAuth(ctx, &kvv1.ChangeAuthRequest{Change: c, Password: password}); err != nil {
		t.Fatal(c, err)
	}
}

func login(t *testing.T, p *cluster.Pod, user string) context.Context {
	t.Helper()
	answer, err := kvv1.NewAuthServiceClient(p.Conn()).Login(t.Context(), &kvv1.LoginRequest{User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return metadata.AppendToOutgoingContext(t.Context(), "token", answer.GetToken())
}

// measure writes at the neighbour's rate, whether or not what it wrote before is
// answered: a write that has to wait makes others wait, and that counts.
func measure(ctx context.Context, p *cluster.Pod, during time.Duration) latencies {
	kv := kvv1.NewKVServiceClient(p.Conn())
	var (
		mu      sync.Mutex
		taken   latencies
		running sync.WaitGroup
	)
	tick := time.NewTicker(time.Second / neighbourRate)
	defer tick.Stop()
	end := time.Now().Add(during)
	for i := 0; time.Now().Before(end); i++ {
		due := <-tick.C
		running.Go(func() {
			_, err := kv.Put(ctx, &kvv1.PutRequest{Key: fmt.Appendf(nil, "neighbour/%d", i%1000), Value: make([]byte, 256)})
			took := time.Since(due)
			if err != nil {
				took = during // It shows.
			}
			mu.Lock()
			defer mu.Unlock()
			taken = append(taken, took)
		})
	}
	running.Wait()
	slices.Sort(taken)
	return taken
}

// flood is a tenant that does not wait.
type flood struct {
	running      sync.WaitGroup
	sent, passed atomic.Int64
}

// floodConnections to each pod, from an address of their own.
const floodConnections = 4

func (f *flood) begin(t *testing.T, ctx context.Context, c *cluster.Cluster, perSecond int) {
	t.Helper()
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	interval := time.Second * time.Duration(len(c.Pods)*floodConnections) / time.Duration(perSecond)
	for _, p := range c.Pods {
		for n := range floodConnections {
			conn, err := grpc.NewClient("passthrough:///"+p.Client, grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
					return from.DialContext(ctx, "tcp", address)
				}))
			if err != nil {
				t.Fatal(err)
			}
			f.running.Go(func() {
				defer conn.Close()
				f.send(ctx, kvv1.NewKVServiceClient(conn), n, interval)
			})
		}
	}
}

func (f *flood) send(ctx context.Context, kv kvv1.KVServiceClient, n int, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		f.sent.Add(1)
		running.Go(func() {
			_, err := kv.Put(ctx, &kvv1.PutRequest{Key: fmt.Appendf(nil, "noisy/%d/%d", n, i%1000), Value: make([]byte, 256)})
			if status.Code(err) == codes.OK {
				f.passed.Add(1)
			}
		})
	}
}
