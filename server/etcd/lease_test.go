package etcd

import (
	"context"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestLeases(t *testing.T) {
	s := newSolo(t)
	leases := pb.NewLeaseClient(s.conn)
	ctx := t.Context()
	granted, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 1})
	if err != nil || granted.GetTTL() != minTTL || granted.GetID() <= 0 || granted.GetHeader().GetRevision() != 1 {
		t.Fatal(granted, err)
	}
	if own, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60, ID: 77}); err != nil || own.GetID() != 77 || own.GetTTL() != 60 {
		t.Fatal(own, err)
	}
	for want, req := range map[error]*pb.LeaseGrantRequest{
		rpctypes.ErrGRPCLeaseExist:       {TTL: 60, ID: 77},
		rpctypes.ErrGRPCLeaseTTLTooLarge: {TTL: maxTTL + 1},
	} {
		if _, err := leases.LeaseGrant(ctx, req); !is(err, want) {
			t.Errorf("%v, not %v", err, want)
		}
	}
	if _, err := s.kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Lease: 77}); err != nil {
		t.Fatal(err)
	}
	left, err := leases.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 77, Keys: true})
	if err != nil || left.GetTTL() < 50 || left.GetTTL() > 59 || left.GetGrantedTTL() != 60 || len(left.GetKeys()) != 1 || string(left.GetKeys()[0]) != "k" {
		t.Fatal(left, err)
	}
	if all, err := leases.LeaseLeases(ctx, &pb.LeaseLeasesRequest{}); err != nil || len(all.GetLeases()) != 2 {
		t.Fatal(all, err)
	}
	if revoked, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 77}); err != nil || revoked.GetHeader().GetRevision() != 3 {
		t.Fatal(revoked, err)
	}
	for _, none := range []int64{77, 0, -1} {
		if _, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: none}); !is(err, rpctypes.ErrGRPCLeaseNotFound) {
			t.Error(none, err)
		}
		left, err := leases.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: none})
		if err != nil || left.GetTTL() != -1 || left.GetID() != none || left.GetHeader().GetRevision() != 3 {
			t.Error(left, err)
		}
	}
	if _, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60, ID: -1}); err == nil {
		t.Error("a negative id")
	}
}

// Leases are listed in the order of their grants: clients' tests expect it.
func TestLeasesInTheOrderOfTheirGrants(t *testing.T) {
	s := newSolo(t)
	leases := pb.NewLeaseClient(s.conn)
	var granted []int64
	for range 20 {
		g, err := leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 60})
		if err != nil {
			t.Fatal(err)
		}
		granted = append(granted, g.GetID())
	}
	all, err := leases.LeaseLeases(t.Context(), &pb.LeaseLeasesRequest{})
	if err != nil || len(all.GetLeases()) != len(granted) {
		t.Fatal(all, err)
	}
	for i, lease := range all.GetLeases() {
		if lease.GetID() != granted[i] {
			t.Errorf("lease %d is %d, the one granted then %d", i, lease.GetID(), granted[i])
		}
	}
}

// A stream answers for leases that live and for those that do not, and waits
// while there is no master.
func TestLeaseKeepAlive(t *testing.T) {
	s := newSolo(t)
	leases := pb.NewLeaseClient(s.conn)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60, ID: 5}); err != nil {
		t.Fatal(err)
	}
	stream, err := leases.LeaseKeepAlive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	keepAlive := func(id, want int64) {
		t.Helper()
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
		if r, err := stream.Recv(); err != nil || r.GetID() != id || r.GetTTL() != want || r.GetHeader().GetRevision() != 1 {
			t.Fatal(r, err)
		}
	}
	keepAlive(5, 60)
	keepAlive(6, 0)
	keepAlive(0, 0)
	keepAlive(-1, 0)
	s.log.setMaster("")
	time.AfterFunc(200*time.Millisecond, func() { s.log.setMaster("kv-0") })
	keepAlive(5, 60)
	s.log.setMaster("")
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 5}); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); !is(err, rpctypes.ErrGRPCNoLeader) {
		t.Fatal(r, err)
	}
}
