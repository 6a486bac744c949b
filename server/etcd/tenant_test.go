package etcd

import (
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func (s *secured) setTenant(tenant *kvv1.Tenant) {
	s.t.Helper()
	change := &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: tenant}}}
	s.must(kvv1.NewAuthServiceClient(s.conn).ChangeAuth(s.root, &kvv1.ChangeAuthRequest{Change: change}))
}

// etcd's clients get the errors that they know for a quota and a rate, the second with
// when to come again; and its tools see no users and roles that nobody made.
func TestTenants(t *testing.T) {
	s := newSecured(t)
	room := &kvv1.Tenant{Name: "room", Users: []string{"alice", "bob"}, Prefix: []byte("k"), Rights: kvv1.Permission_KIND_READWRITE, MaxKeys: 2}
	s.setTenant(room)
	put := func(key string) *pb.PutRequest { return &pb.PutRequest{Key: []byte(key)} }
	s.must(s.kv.Put(s.alice, put("k1")))
	s.must(s.kv.Put(s.root, put("k2")))
	for name, err := range map[string]error{
		"put": func() error { _, err := s.kv.Put(s.alice, put("k3")); return err }(),
		"txn": func() error {
			ops := []*pb.RequestOp{
				{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("k1")}}},
				{Request: &pb.RequestOp_RequestPut{RequestPut: put("k3")}}, {Request: &pb.RequestOp_RequestPut{RequestPut: put("k4")}},
			}
			_, err := s.kv.Txn(s.alice, &pb.TxnRequest{Success: ops})
			return err
		}(),
	} {
		if status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCNoSpace).Message() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := s.kv.Range(s.alice, &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}); err != nil || got.GetCount() != 2 {
		t.Errorf("after what was refused: %v, %v", got, err)
	}
	s.must(s.kv.DeleteRange(s.alice, &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}))

	room.RequestsPerSecond, room.BurstMs = 1, 1
	s.setTenant(room)
	var err error
	for range 10 { // Those before had another rate.
		if _, err = s.kv.Range(s.alice, &pb.RangeRequest{Key: []byte("k")}); err != nil {
			break
		}
	}
	if status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCRequestTooManyRequests).Message() ||
		!slices.ContainsFunc(status.Convert(err).Details(), func(d any) bool { _, ok := d.(*errdetails.RetryInfo); return ok }) {
		t.Errorf("over the rate: %v, %v", err, status.Convert(err).Details())
	}

	users, err := s.auth.UserList(s.root, &pb.AuthUserListRequest{})
	if err != nil || !slices.Equal(users.GetUsers(), []string{"alice", "root"}) {
		t.Errorf("users: %v, %v", users, err)
	}
	roles, err := s.auth.RoleList(s.root, &pb.AuthRoleListRequest{})
	if err != nil || !slices.Equal(roles.GetRoles(), []string{"alice", "root"}) {
		t.Errorf("roles: %v, %v", roles, err)
	}
}

// A keep-alive of a tenant that owes more than the patience with a master that is not there
// waits for longer than that: its stream goes on.
func TestKeepAlivesAreSlowedDown(t *testing.T) {
	s := newSecured(t)
	leases := pb.NewLeaseClient(s.conn)
	s.must(leases.LeaseGrant(s.root, &pb.LeaseGrantRequest{TTL: 60, ID: 77}))
	s.setTenant(&kvv1.Tenant{
		Name: "room", Users: []string{"alice"}, Prefix: []byte("k"), Rights: kvv1.Permission_KIND_READWRITE, RequestsPerSecond: 1, BurstMs: 1,
	})
	stream, err := leases.LeaseKeepAlive(s.alice)
	s.must(stream, err)
	for range 2 {
		s.must(nil, stream.Send(&pb.LeaseKeepAliveRequest{ID: 77}))
	}
	for range 2 {
		if answer, err := stream.Recv(); err != nil || answer.GetTTL() != 60 {
			t.Fatalf("%v, %v", answer, err)
		}
	}
}
