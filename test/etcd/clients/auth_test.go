package clients

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/etcd/servers"
)

// TestUsers runs etcd's client as a user: through the end of its tokens, a kill of the
// master and restarts of all pods, and until it loses a right.
func TestUsers(t *testing.T) {
	pods := servers.Baton(t, 3)
	ctx := limited(t)
	nobody := dial(t, pods.Endpoints()...)
	master := pods.AwaitMaster(t)
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"root", "alice"} {
		_, err := nobody.UserAdd(ctx, name, name+"s")
		do(err)
		_, err = nobody.RoleAdd(ctx, name)
		do(err)
		_, err = nobody.UserGrantRole(ctx, name, name)
		do(err)
	}
	_, err := nobody.RoleGrantPermission(ctx, "alice", "alice/", clientv3.GetPrefixRangeEnd("alice/"), clientv3.PermissionType(clientv3.PermReadWrite))
	do(err)
	_, err = nobody.AuthEnable(ctx)
	do(err)
	as := func(name string) *clientv3.Client {
		client, err := clientv3.New(clientv3.Config{Endpoints: pods.Endpoints(), DialTimeout: 5 * time.Second, Username: name, Password: name + "s"})
		do(err)
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	root, alice := as("root"), as("alice")

	watched := alice.Watch(ctx, "alice/", clientv3.WithPrefix())
	value := func(want string) {
		t.Helper()
		put, err := alice.Put(ctx, "alice/k", want)
		do(err)
		for r := range watched {
			do(r.Err())
			for _, e := range r.Events {
				if e.Kv.ModRevision == put.Header.Revision && string(e.Kv.Value) == want {
					return
				}
			}
		}
		t.Fatalf("the watch ended before %s", want)
	}
	value("1")
	session, err := concurrency.NewSession(alice, concurrency.WithTTL(3))
	do(err)
	defer session.Close()
	_, err = root.UserChangePassword(ctx, "alice", "alices") // Her tokens end.
	do(err)
	value("2")
	outlasts(t, session)

	locked := concurrency.NewMutex(session, "alice/lock")
	do(locked.Lock(ctx))
	if err := concurrency.NewMutex(session, "bob/lock").Lock(ctx); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("a lock of another's keys: %v", err)
	}
	cluster.Kill(master)
	do(again(ctx, func() error { _, err := alice.Put(ctx, "alice/k", "3"); return err }))
	do(master.Start())
	do(again(ctx, func() error { _, err := alice.Get(ctx, "alice/", clientv3.WithPrefix()); return err }))

	end := make(chan error, 1)
	hers := alice.Watch(clientv3.WithRequireLeader(ctx), "alice/k")
	go func() {
		for r := range hers {
			if err := r.Err(); err != nil {
				end <- err
				return
			}
		}
		end <- nil
	}()
	_, err = alice.Put(ctx, "alice/k", "4")
	do(err)
	_, err = root.RoleRevokePermission(ctx, "alice", "alice/", clientv3.GetPrefixRangeEnd("alice/"))
	do(err)
	select {
	case err := <-end:
		if err != nil { // This client keeps the reason to itself.
			t.Errorf("the watch ended with %v", err)
		}
	case <-ctx.Done():
		t.Error("the watch goes on without the right")
	}
	_, err = alice.Put(context.WithoutCancel(ctx), "alice/k", "5")
	if !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("a put without the right: %v", err)
	}
}

// outlasts waits until a session would have ended without the keep-alives that come after
// the end of a token.
func outlasts(t *testing.T, session *concurrency.Session) {
	t.Helper()
	select {
	case <-session.Done():
		t.Error("the session ended with the token")
	case <-time.After(7 * time.Second):
	}
	left, err := session.Client().TimeToLive(t.Context(), session.Lease())
	if err != nil || left.TTL <= 0 {
		t.Errorf("the lease ended with the token: %v, %v", left, err)
	}
}
