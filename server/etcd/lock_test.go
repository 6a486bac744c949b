package etcd

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// grant returns a lease of a minute.
func (s *solo) grant(t *testing.T) int64 {
	t.Helper()
	granted, err := pb.NewLeaseClient(s.conn).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 60})
	if err != nil {
		t.Fatal(err)
	}
	return granted.GetID()
}

// awaitQueue waits until a queue has so many keys.
func (s *solo) awaitQueue(t *testing.T, name string, keys int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for {
		all := &pb.RangeRequest{Key: []byte(name + "/"), RangeEnd: []byte(name + "0"), CountOnly: true}
		response, err := s.kv.Range(ctx, all)
		if err != nil {
			t.Fatal(err)
		}
		if response.GetCount() == keys {
			return
		}
	}
}

func TestLock(t *testing.T) {
	s := newSolo(t)
	locks := v3lockpb.NewLockClient(s.conn)
	first, second := s.grant(t), s.grant(t)
	lock := func(ctx context.Context, lease int64) (*v3lockpb.LockResponse, error) {
		return locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: lease})
	}
	held, err := lock(t.Context(), first)
	if err != nil || string(held.GetKey()) != fmt.Sprintf("l/%x", first) {
		t.Fatal(held, err)
	}
	if again, err := lock(t.Context(), first); err != nil || !bytes.Equal(again.GetKey(), held.GetKey()) {
		t.Fatal(again, err)
	}
	// Whoever gives up waiting leaves the queue.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if r, err := lock(ctx, second); status.Code(err) != codes.DeadlineExceeded {
		t.Fatal(r, err)
	}
	s.awaitQueue(t, "l", 1)
	// The pod says the same, if its answer comes before the client's own timer.
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	own := &lockService{queue: s.queue}
	if r, err := own.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: second}); status.Code(err) != codes.DeadlineExceeded {
		t.Fatal(r, err)
	}
	s.awaitQueue(t, "l", 1)

	got := make(chan error, 1)
	go func() { _, err := lock(t.Context(), second); got <- err }()
	s.awaitQueue(t, "l", 2)
	if _, err := locks.Unlock(t.Context(), &v3lockpb.UnlockRequest{Key: held.GetKey()}); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	// One whose lease ends while it waits does not hold the lock.
	go func() { _, err := lock(t.Context(), first); got <- err }()
	s.awaitQueue(t, "l", 2)
	for _, lease := range []int64{first, second} {
		if _, err := pb.NewLeaseClient(s.conn).LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: lease}); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-got; status.Convert(err).Message() != errSessionExpired.Error() {
		t.Fatal(err)
	}
	if r, err := lock(t.Context(), 0); err != nil || len(r.GetKey()) == 0 {
		t.Fatal(r, err)
	}
}

// A call that timed out gives up its place when its caller, with the same lease,
// has come again and was granted the lock: that place is not its own any more.
func TestATimedOutLockDoesNotEndItsRetry(t *testing.T) {
	s := newSolo(t)
	own, lease, other := &lockService{queue: s.queue}, s.grant(t), s.grant(t)
	late, err := s.queue.join(t.Context(), []byte("l"), lease, nil)
	if err != nil {
		t.Fatal(err)
	}
	granted, err := own.Lock(t.Context(), &v3lockpb.LockRequest{Name: []byte("l"), Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	s.queue.abandon(t.Context(), late)
	held, err := s.kv.Range(t.Context(), &pb.RangeRequest{Key: granted.GetKey()})
	if err != nil || len(held.GetKvs()) != 1 || held.GetKvs()[0].GetCreateRevision() != late.revision {
		t.Fatalf("the lock that was granted is gone: %v %v", held, err)
	}
	// One that nobody repeats leaves the queue.
	left, err := s.queue.join(t.Context(), []byte("l"), other, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.queue.abandon(t.Context(), left)
	s.awaitQueue(t, "l", 1)
}

func TestElection(t *testing.T) {
	s := newSolo(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	elections, name := v3electionpb.NewElectionClient(s.conn), []byte("e")
	observed, err := elections.Observe(ctx, &v3electionpb.LeaderRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	see := func(want string) {
		t.Helper()
		if r, err := observed.Recv(); err != nil || string(r.GetKv().GetValue()) != want {
			t.Fatal(r, err)
		}
	}
	if _, err := elections.Leader(ctx, &v3electionpb.LeaderRequest{Name: name}); status.Convert(err).Message() != errNoElected.Error() {
		t.Fatal(err)
	}
	campaign := func(value string, lease int64) (*v3electionpb.CampaignResponse, error) {
		return elections.Campaign(ctx, &v3electionpb.CampaignRequest{Name: name, Lease: lease, Value: []byte(value)})
	}
	lease := s.grant(t)
	one, err := campaign("one", lease)
	if err != nil || one.GetLeader().GetLease() != lease {
		t.Fatal(one, err)
	}
	see("one")
	if again, err := campaign("uno", lease); err != nil || again.GetLeader().GetRev() != one.GetLeader().GetRev() {
		t.Fatal(again, err)
	}
	see("uno")
	if _, err := elections.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: one.GetLeader(), Value: []byte("I")}); err != nil {
		t.Fatal(err)
	}
	see("I")
	got := make(chan error, 1)
	go func() { _, err := campaign("two", s.grant(t)); got <- err }()
	s.awaitQueue(t, "e", 2)
	if _, err := elections.Resign(ctx, &v3electionpb.ResignRequest{Leader: one.GetLeader()}); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	see("two")
	if now, err := elections.Leader(ctx, &v3electionpb.LeaderRequest{Name: name}); err != nil || string(now.GetKv().GetValue()) != "two" {
		t.Fatal(now, err)
	}
	if _, err := elections.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: one.GetLeader()}); status.Convert(err).Message() != errNotLeader.Error() {
		t.Fatal(err)
	}
	if _, err := elections.Proclaim(ctx, &v3electionpb.ProclaimRequest{}); status.Convert(err).Message() != errMissingLeaderKey.Error() {
		t.Fatal(err)
	}
	if _, err := elections.Resign(ctx, &v3electionpb.ResignRequest{}); status.Convert(err).Message() != errMissingLeaderKey.Error() {
		t.Fatal(err)
	}
}
