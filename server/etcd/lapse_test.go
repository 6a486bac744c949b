package etcd

import (
	"context"
	"errors"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/server"
)

// What lasts ends with the token that it was begun with: watches by an error after which
// etcd's clients log in and go on, all others by etcd's error for such a token.
func TestWhatLastsEndsWithItsToken(t *testing.T) {
	var until time.Time // Set before the first call with the token.
	s := secure(t, newSolo(t, func(o *server.Options) {
		o.Security.Token = func(_ context.Context, token string) (caller.Caller, error) {
			return caller.Caller{User: "root", By: caller.ServiceAccount, Until: until}, nil
		}
	}))
	s.must(s.kv.Put(s.root, &pb.PutRequest{Key: []byte("election/1")}))
	held, err := v3lockpb.NewLockClient(s.conn).Lock(s.root, &v3lockpb.LockRequest{Name: []byte("lock")})
	if err != nil {
		t.Fatal(err)
	}
	until = time.Now().Add(2 * time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "token", "a.b.c")

	slow := func(err error) {
		t.Helper()
		if time.Now().After(until) {
			t.Skip("this machine is too slow: the token has ended before the test began")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	watch, first := watchAs(t, s, ctx, "k", "")
	if first.GetCanceled() {
		slow(errors.New(first.GetCancelReason()))
	}
	observe, err := v3electionpb.NewElectionClient(s.conn).Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte("election")})
	if err == nil {
		_, err = observe.Recv()
	}
	slow(err)
	keepAlive, err := pb.NewLeaseClient(s.conn).LeaseKeepAlive(ctx)
	slow(err)
	locking := make(chan error, 1)
	go func() {
		_, err := v3lockpb.NewLockClient(s.conn).Lock(ctx, &v3lockpb.LockRequest{Name: []byte("lock")})
		locking <- err
	}()

	time.Sleep(time.Until(until.Add(100 * time.Millisecond))) // The time of tokens goes by this clock.
	s.must(s.kv.Put(s.root, &pb.PutRequest{Key: []byte("k")}))
	if response, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the watch: %v, %v", response, err)
	}
	_, err = observe.Recv()
	s.want("observing an election", rpctypes.ErrGRPCInvalidAuthToken, err)
	_, err = keepAlive.Recv()
	s.want("keep-alives", rpctypes.ErrGRPCInvalidAuthToken, err)
	s.want("waiting for a lock", rpctypes.ErrGRPCInvalidAuthToken, <-locking)
	s.must(v3lockpb.NewLockClient(s.conn).Unlock(s.root, &v3lockpb.UnlockRequest{Key: held.GetKey()}))
	queue, err := s.kv.Range(s.root, &pb.RangeRequest{Key: []byte("lock/"), RangeEnd: []byte("lock0")})
	if err != nil || queue.GetCount() != 0 {
		t.Errorf("the place of whoever waited is kept: %v, %v", queue, err)
	}
}

// A lease ends in its time, and its keys with it, whatever became of the token, the user or
// the rights of whoever was granted it.
func TestLeasesExpireWithoutAToken(t *testing.T) {
	s := newSecured(t, permission(both, "k", ""))
	granted, err := pb.NewLeaseClient(s.conn).LeaseGrant(s.alice, &pb.LeaseGrantRequest{TTL: 2})
	if err != nil {
		t.Fatal(err)
	}
	s.must(s.kv.Put(s.alice, &pb.PutRequest{Key: []byte("k"), Lease: granted.GetID()}))
	s.must(s.auth.UserDelete(s.root, &pb.AuthUserDeleteRequest{Name: "alice"}))
	s.must(s.auth.RoleDelete(s.root, &pb.AuthRoleDeleteRequest{Role: "alice"}))
	watch, _ := watchAs(t, s, s.root, "k", "")
	response, err := watch.Recv()
	if err != nil || len(response.GetEvents()) != 1 {
		t.Errorf("%v, %v", response, err)
	}
	left, err := s.kv.Range(s.root, &pb.RangeRequest{Key: []byte("k")})
	if err != nil || left.GetCount() != 0 {
		t.Errorf("the key is still there: %v, %v", left, err)
	}
}
