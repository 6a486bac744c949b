package clients

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"

	"github.com/batondb/baton/test/etcd/servers"
)

// locker takes a lock over and over, and adds 1 to a counter while it has it.
type locker struct {
	t       *testing.T
	client  *clientv3.Client
	session *concurrency.Session
	shared  *lockers
}

// lockers is what all of them share.
type lockers struct {
	inside          atomic.Int32 // Lockers that have the lock.
	acquired, added atomic.Int64
	unknown         atomic.Int64
	mu              sync.Mutex
	fences          []fence // Of those that were added.
}

// fence is which turn has added at which revision.
type fence struct{ turn, revision int64 }

func (l *locker) run(ctx context.Context) {
	mutex := concurrency.NewMutex(l.session, "lock")
	for ctx.Err() == nil {
		// After an unknown outcome the next call finds the key of this one.
		if err := mutex.Lock(ctx); err != nil {
			continue
		}
		l.hold(ctx, mutex)
		_ = again(ctx, func() error { return mutex.Unlock(ctx) })
	}
}

func (l *locker) hold(ctx context.Context, mutex *concurrency.Mutex) {
	if others := l.shared.inside.Add(1) - 1; others > 0 {
		l.t.Errorf("%d others have the lock", others)
	}
	defer l.shared.inside.Add(-1)
	l.shared.acquired.Add(1)
	own, err := l.client.Get(ctx, mutex.Key())
	if err != nil || len(own.Kvs) != 1 {
		return
	}
	now, err := l.client.Get(ctx, "counter")
	if err != nil {
		return
	}
	n := 0
	if len(now.Kvs) > 0 {
		n, _ = strconv.Atoi(string(now.Kvs[0].Value))
	}
	response, err := l.client.Txn(ctx).If(mutex.IsOwner()).Then(clientv3.OpPut("counter", strconv.Itoa(n+1))).Commit()
	switch {
	case err != nil:
		l.shared.unknown.Add(1)
	case !response.Succeeded:
		l.t.Error("the lock's key is gone while the session lives")
	default:
		l.shared.added.Add(1)
		l.shared.mu.Lock()
		l.shared.fences = append(l.shared.fences, fence{own.Kvs[0].CreateRevision, response.Header.Revision})
		l.shared.mu.Unlock()
	}
}

// Nobody holds a lock at the same time as another, and no increment under it is
// lost, when the master is killed twice.
func TestMutex(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx, stop := context.WithCancel(limited(t))
	shared := &lockers{}
	var all sync.WaitGroup
	for range 4 {
		client := dial(t, pods.Endpoints()...)
		session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
		if err != nil {
			t.Fatal(err)
		}
		l := &locker{t, client, session, shared}
		all.Go(func() { l.run(ctx) })
		defer func() {
			select {
			case <-session.Done():
				t.Error("a session has ended")
			default:
			}
		}()
	}
	for range 2 {
		killMaster(t, pods, shared.added.Load)
	}
	stop()
	all.Wait()
	response, err := dial(t, pods.Endpoints()...).Get(t.Context(), "counter")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(string(response.Kvs[0].Value), 10, 64)
	if err != nil || n < shared.added.Load() || n > shared.added.Load()+shared.unknown.Load() {
		t.Errorf("the counter is %d after %d additions and %d unknown ones", n, shared.added.Load(), shared.unknown.Load())
	}
	for i, f := range shared.fences[1:] {
		if before := shared.fences[i]; f.turn < before.turn || f.revision <= before.revision {
			t.Errorf("the turn of %d at %d comes after that of %d at %d", f.turn, f.revision, before.turn, before.revision)
		}
	}
	t.Logf("%d turns, %d unknown", n, shared.unknown.Load())
}

// The lock service and the client's package exclude each other.
func TestLockService(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx := limited(t)
	client := dial(t, pods.Endpoints()...)
	session, err := concurrency.NewSession(client)
	if err != nil {
		t.Fatal(err)
	}
	mutex := concurrency.NewMutex(session, "both")
	if err := mutex.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	locks := v3lockpb.NewLockClient(pods.Pods[1].Conn())
	got := make(chan *v3lockpb.LockResponse, 1)
	go func() {
		r, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("both")})
		if err != nil {
			t.Error(err)
		}
		got <- r
	}()
	await(t, "two in the queue", func() bool {
		r, err := client.Get(ctx, "both/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == 2
	})
	select {
	case r := <-got:
		t.Fatal("two have the lock", r)
	default:
	}
	if err := mutex.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	held := <-got
	if err := mutex.TryLock(ctx); err != concurrency.ErrLocked {
		t.Fatal(err)
	}
	if _, err := locks.Unlock(ctx, &v3lockpb.UnlockRequest{Key: held.GetKey()}); err != nil {
		t.Fatal(err)
	}
	if err := mutex.Lock(ctx); err != nil {
		t.Fatal(err)
	}
}
