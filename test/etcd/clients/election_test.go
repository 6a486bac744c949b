package clients

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/batondb/baton/test/etcd/servers"
)

// observer notes who led, one after the other.
type observer struct {
	mu   sync.Mutex
	seen []string
	last int64
}

func (o *observer) run(ctx context.Context, t *testing.T, client *clientv3.Client) {
	session, err := concurrency.NewSession(client)
	if err != nil {
		t.Error(err)
		return
	}
	for ctx.Err() == nil {
		for leader := range concurrency.NewElection(session, "election").Observe(ctx) {
			o.mu.Lock()
			if leader.Header.Revision < o.last {
				t.Errorf("revision %d after %d", leader.Header.Revision, o.last)
			}
			o.last = leader.Header.Revision
			o.seen = append(o.seen, string(leader.Kvs[0].Value))
			o.mu.Unlock()
		}
	}
}

func (o *observer) latest() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.seen) == 0 {
		return ""
	}
	return o.seen[len(o.seen)-1]
}

// candidate campaigns, proclaims and resigns, again and again.
func candidate(ctx context.Context, t *testing.T, session *concurrency.Session, name string, leaders *atomic.Int32, leaderships *atomic.Int64) {
	for i := 0; ctx.Err() == nil; i++ {
		election := concurrency.NewElection(session, "election")
		err := election.Campaign(ctx, fmt.Sprintf("%s %d elected", name, i))
		if err == nil {
			if n := leaders.Add(1); n != 1 {
				t.Errorf("%d leaders", n)
			}
			// Not applied, or unknown: the election goes on either way.
			_ = election.Proclaim(ctx, fmt.Sprintf("%s %d proclaims", name, i))
			leaderships.Add(1)
			leaders.Add(-1)
		}
		// A campaign that failed with an unknown outcome may have a place.
		key := fmt.Sprintf("election/%x", session.Lease())
		if err := again(ctx, func() error { _, err := session.Client().Delete(ctx, key); return err }); err != nil {
			return
		}
	}
}

// One leads at a time, and all who look see the same in the end.
func TestElection(t *testing.T) {
	pods := servers.Baton(t, 3)
	all := limited(t)
	ctx, stop := context.WithCancel(all)
	var candidates, observers sync.WaitGroup
	var leaders atomic.Int32
	var leaderships atomic.Int64
	for i := range 3 {
		session, err := concurrency.NewSession(dial(t, pods.Endpoints()...), concurrency.WithTTL(10))
		if err != nil {
			t.Fatal(err)
		}
		candidates.Go(func() { candidate(ctx, t, session, fmt.Sprint("candidate ", i), &leaders, &leaderships) })
	}
	watching, blind := context.WithCancel(all)
	seen := []*observer{{}, {}}
	for _, o := range seen {
		client := dial(t, pods.Endpoints()...)
		observers.Go(func() { o.run(watching, t, client) })
	}
	for range 2 {
		killMaster(t, pods, leaderships.Load)
	}
	stop()
	candidates.Wait()
	session, err := concurrency.NewSession(dial(t, pods.Endpoints()...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Client().Delete(all, "election/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if err := concurrency.NewElection(session, "election").Campaign(all, "the last"); err != nil {
		t.Fatal(err)
	}
	for _, o := range seen {
		await(t, "the last leader is seen", func() bool { return o.latest() == "the last" })
	}
	blind()
	observers.Wait()
	t.Logf("%d leaderships, %d and %d seen", leaderships.Load(), len(seen[0].seen), len(seen[1].seen))
}
