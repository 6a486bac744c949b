package etcd

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/metadata"
)

// secured is a pod with access control on, and contexts of its users: alice has
// permissions, as they are written here, on keys; nobody is no user.
type secured struct {
	*solo
	t                   *testing.T
	auth                pb.AuthClient
	root, alice, nobody context.Context
}

// newSecured gives alice permissions: each is a kind, a key and an end.
func newSecured(t *testing.T, permissions ...*authpb.Permission) *secured {
	t.Helper()
	return secure(t, newSolo(t), permissions...)
}

func secure(t *testing.T, s *solo, permissions ...*authpb.Permission) *secured {
	t.Helper()
	p := &secured{solo: s, t: t, auth: pb.NewAuthClient(s.conn), nobody: t.Context()}
	for _, user := range []string{"root", "alice"} {
		p.must(p.auth.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: user, Password: user + "s"}))
		p.must(p.auth.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: user}))
		p.must(p.auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: user, Role: user}))
	}
	for _, permission := range permissions {
		p.must(p.auth.RoleGrantPermission(t.Context(), &pb.AuthRoleGrantPermissionRequest{Name: "alice", Perm: permission}))
	}
	p.must(p.auth.AuthEnable(t.Context(), &pb.AuthEnableRequest{}))
	p.root, p.alice = p.login("root"), p.login("alice")
	return p
}

func (s *secured) must(_ any, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *secured) login(user string) context.Context {
	s.t.Helper()
	answer, err := s.auth.Authenticate(s.t.Context(), &pb.AuthenticateRequest{Name: user, Password: user + "s"})
	if err != nil {
		s.t.Fatal(err)
	}
	return metadata.AppendToOutgoingContext(s.t.Context(), "token", answer.GetToken())
}

func permission(kind authpb.Permission_Type, key, end string) *authpb.Permission {
	return &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)}
}

const (
	reading = authpb.Permission_READ
	writing = authpb.Permission_WRITE
	both    = authpb.Permission_READWRITE
)

// sameError says whether an error is one of etcd's.
func sameError(err, want error) bool { return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(want) }

func (s *secured) want(what string, want error, err error) {
	s.t.Helper()
	if want == nil && err != nil || want != nil && !sameError(err, want) {
		s.t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func putOp(put *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}}
}

func deleteOp(d *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}}
}

func txnOp(txn *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: txn}}
}

// What etcd's users may do with etcd's requests, also where its checks had holes:
// transactions within transactions (GHSA-rfx7-8w68-q57q), the previous value and the
// lease of a put within one (CVE-2026-44283).
func TestRightsOnKeys(t *testing.T) {
	s := newSecured(t, permission(both, "a", "c"), permission(reading, "r", ""), permission(writing, "w", ""), permission(reading, "y", "\x00"))
	key, end := func(k string) []byte { return []byte(k) }, func(k string) []byte { return []byte(k) }
	denied := rpctypes.ErrGRPCPermissionDenied
	for _, test := range []struct {
		what string
		want error
		op   *pb.RequestOp
	}{
		{"its own key", nil, putOp(&pb.PutRequest{Key: key("a"), PrevKv: true})},
		{"another key", denied, putOp(&pb.PutRequest{Key: key("c")})},
		{"a key that it may only read", denied, putOp(&pb.PutRequest{Key: key("r")})},
		{"a key that it may only write", nil, putOp(&pb.PutRequest{Key: key("w")})},
		{"the value before", denied, putOp(&pb.PutRequest{Key: key("w"), PrevKv: true})},
		{"its range", nil, get(&pb.RangeRequest{Key: key("a"), RangeEnd: end("c")})},
		{"more than its range", denied, get(&pb.RangeRequest{Key: key("a"), RangeEnd: end("c\x00")})},
		{"from a key on", denied, get(&pb.RangeRequest{Key: key("a"), RangeEnd: end("\x00")})},
		{"everything", denied, get(&pb.RangeRequest{Key: end("\x00"), RangeEnd: end("\x00")})},
		{"from its key on", nil, get(&pb.RangeRequest{Key: key("z"), RangeEnd: end("\x00")})},
		{"a number of keys", denied, get(&pb.RangeRequest{Key: key("a"), RangeEnd: end("d"), CountOnly: true})},
		{"deleting its range", nil, deleteOp(&pb.DeleteRangeRequest{Key: key("a"), RangeEnd: end("c"), PrevKv: true})},
		{"deleting more", denied, deleteOp(&pb.DeleteRangeRequest{Key: key("a"), RangeEnd: end("d")})},
		{"deleting unseen", nil, deleteOp(&pb.DeleteRangeRequest{Key: key("w")})},
		{"deleting and seeing", denied, deleteOp(&pb.DeleteRangeRequest{Key: key("w"), PrevKv: true})},
	} {
		compare := func(key string) []*pb.Compare { return []*pb.Compare{{Key: []byte(key), Target: pb.Compare_VERSION}} }
		for where, txn := range map[string]*pb.TxnRequest{
			"alone":            {Success: []*pb.RequestOp{test.op}},
			"in the failures":  {Failure: []*pb.RequestOp{test.op}},
			"nested":           {Success: []*pb.RequestOp{txnOp(&pb.TxnRequest{Failure: []*pb.RequestOp{test.op}})}},
			"nested twice":     {Failure: []*pb.RequestOp{txnOp(&pb.TxnRequest{Success: []*pb.RequestOp{txnOp(&pb.TxnRequest{Success: []*pb.RequestOp{test.op}})}})}},
			"beside a write":   {Compare: compare("r"), Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: key("b")})}, Failure: []*pb.RequestOp{test.op}},
			"after an outlook": {Compare: compare("s"), Success: []*pb.RequestOp{test.op}},
		} {
			want := test.want
			if where == "after an outlook" {
				want = denied
			}
			_, err := s.kv.Txn(s.alice, txn)
			s.want(test.what+", "+where, want, err)
			_, err = s.kv.Txn(s.root, txn)
			s.want(test.what+", "+where+", by root", nil, err)
			_, err = s.kv.Txn(s.nobody, txn)
			s.want(test.what+", "+where+", by nobody", rpctypes.ErrGRPCUserEmpty, err)
		}
		var err error
		switch o := test.op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			_, err = s.kv.Put(s.alice, o.RequestPut)
		case *pb.RequestOp_RequestRange:
			_, err = s.kv.Range(s.alice, o.RequestRange)
		case *pb.RequestOp_RequestDeleteRange:
			_, err = s.kv.DeleteRange(s.alice, o.RequestDeleteRange)
		}
		s.want(test.what, test.want, err)
	}
}

// Leases: attaching a key needs write on those that are attached (CVE-2026-44283), also
// in a transaction; seeing them needs read (CVE-2023-32082), the end of a lease write.
// Its end by itself needs nobody.
func TestRightsOnLeases(t *testing.T) {
	s := newSecured(t, permission(both, "a", "c"), permission(reading, "r", ""))
	leases := pb.NewLeaseClient(s.conn)
	s.must(leases.LeaseGrant(s.alice, &pb.LeaseGrantRequest{ID: 1, TTL: 1000}))
	s.must(leases.LeaseGrant(s.root, &pb.LeaseGrantRequest{ID: 2, TTL: 1000}))
	s.must(s.kv.Put(s.root, &pb.PutRequest{Key: []byte("r"), Lease: 1}))
	s.must(s.kv.Put(s.root, &pb.PutRequest{Key: []byte("x"), Lease: 2}))
	denied := rpctypes.ErrGRPCPermissionDenied
	attach := &pb.PutRequest{Key: []byte("a"), Lease: 2}
	_, err := s.kv.Put(s.alice, attach)
	s.want("attaching", denied, err)
	_, err = s.kv.Txn(s.alice, &pb.TxnRequest{Failure: []*pb.RequestOp{txnOp(&pb.TxnRequest{Success: []*pb.RequestOp{putOp(attach)}})}})
	s.want("attaching within transactions", denied, err)
	_, err = leases.LeaseTimeToLive(s.alice, &pb.LeaseTimeToLiveRequest{ID: 2, Keys: true})
	s.want("the keys of a lease", denied, err)
	_, err = leases.LeaseTimeToLive(s.alice, &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true})
	s.want("keys that may be read", nil, err)
	_, err = leases.LeaseTimeToLive(s.alice, &pb.LeaseTimeToLiveRequest{ID: 2})
	s.want("a time to live", nil, err)
	_, err = leases.LeaseLeases(s.alice, &pb.LeaseLeasesRequest{})
	s.want("all leases", denied, err)
	_, err = leases.LeaseRevoke(s.alice, &pb.LeaseRevokeRequest{ID: 2})
	s.want("ending another's lease", denied, err)
	_, err = leases.LeaseRevoke(s.alice, &pb.LeaseRevokeRequest{ID: 1})
	s.want("ending a lease with a key that may only be read", denied, err)
	keepAlive, err := leases.LeaseKeepAlive(s.alice)
	if err == nil {
		err = keepAlive.Send(&pb.LeaseKeepAliveRequest{ID: 2})
	}
	if err == nil {
		_, err = keepAlive.Recv()
	}
	s.want("keeping another's lease alive", denied, err)
	for what, ctx := range map[string]context.Context{"granting": s.nobody} {
		_, err = leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 10})
		s.want(what, rpctypes.ErrGRPCUserEmpty, err)
	}
	s.must(leases.LeaseGrant(s.alice, &pb.LeaseGrantRequest{ID: 3, TTL: 2}))
	s.must(s.kv.Put(s.alice, &pb.PutRequest{Key: []byte("b"), Lease: 3}))
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		found, err := s.kv.Range(s.alice, &pb.RangeRequest{Key: []byte("b")})
		s.must(found, err)
		if len(found.GetKvs()) == 0 {
			break
		}
		if time.Since(begun) > 20*time.Second {
			t.Fatal("the lease does not end")
		}
	}
}

// What is not about keys needs the role root (GHSA-q8m4-xhhv-38mg).
func TestRightsOnTheRest(t *testing.T) {
	s := newSecured(t, permission(both, "\x00", "\x00"))
	maintenance, cluster := pb.NewMaintenanceClient(s.conn), pb.NewClusterClient(s.conn)
	for what, call := range map[string]func(ctx context.Context) error{
		"compact": func(ctx context.Context) error {
			_, err := s.kv.Compact(ctx, &pb.CompactionRequest{Revision: 1})
			return err
		},
		"defragment": func(ctx context.Context) error {
			_, err := maintenance.Defragment(ctx, &pb.DefragmentRequest{})
			return err
		},
		"hash":     func(ctx context.Context) error { _, err := maintenance.HashKV(ctx, &pb.HashKVRequest{}); return err },
		"snapshot": func(ctx context.Context) error { return firstOf(maintenance.Snapshot(ctx, &pb.SnapshotRequest{})) },
		"move": func(ctx context.Context) error {
			_, err := maintenance.MoveLeader(ctx, &pb.MoveLeaderRequest{})
			return err
		},
		"disarm": func(ctx context.Context) error {
			_, err := maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE})
			return err
		},
		"add member": func(ctx context.Context) error { _, err := cluster.MemberAdd(ctx, &pb.MemberAddRequest{}); return err },
		"add user": func(ctx context.Context) error {
			_, err := s.auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "u"})
			return err
		},
		"list users": func(ctx context.Context) error { _, err := s.auth.UserList(ctx, &pb.AuthUserListRequest{}); return err },
		"see root": func(ctx context.Context) error {
			_, err := s.auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "root"})
			return err
		},
		"see a role": func(ctx context.Context) error {
			_, err := s.auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "root"})
			return err
		},
		"turn it off": func(ctx context.Context) error {
			_, err := s.auth.AuthDisable(ctx, &pb.AuthDisableRequest{})
			return err
		},
	} {
		s.want(what, rpctypes.ErrGRPCPermissionDenied, call(s.alice))
		s.want(what+" by nobody", rpctypes.ErrGRPCUserEmpty, call(s.nobody))
	}
	for what, call := range map[string]func(ctx context.Context) error{
		"members": func(ctx context.Context) error {
			_, err := cluster.MemberList(ctx, &pb.MemberListRequest{})
			return err
		},
		"status": func(ctx context.Context) error { _, err := maintenance.Status(ctx, &pb.StatusRequest{}); return err },
		"alarms": func(ctx context.Context) error { _, err := maintenance.Alarm(ctx, &pb.AlarmRequest{}); return err },
		"itself": func(ctx context.Context) error {
			_, err := s.auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "alice"})
			return err
		},
		"role": func(ctx context.Context) error {
			_, err := s.auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "alice"})
			return err
		},
	} {
		s.want(what, nil, call(s.alice))
		s.want(what+" by nobody", rpctypes.ErrGRPCUserEmpty, call(s.nobody))
	}
	_, err := v3lockpb.NewLockClient(s.conn).Lock(s.nobody, &v3lockpb.LockRequest{Name: []byte("l")})
	s.want("a lock", rpctypes.ErrGRPCUserEmpty, err)
}

// firstOf is the error of a stream's first message.
func firstOf[M any](stream interface{ Recv() (M, error) }, err error) error {
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// open are the methods that anybody may call.
var open = []string{
	"/baton.kv.v1.AuthService/AuthStatus", "/baton.kv.v1.AuthService/Login",
	"/etcdserverpb.Auth/AuthStatus", "/etcdserverpb.Auth/Authenticate",
	"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch",
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}

// Every method of the port, as reflection lists them, asks who calls, and none is
// forgotten, which would keep root from it, too.
func TestEveryMethodHasItsNeed(t *testing.T) {
	s := newSecured(t)
	count := 0
	for _, method := range listed(t, s.conn) {
		count++
		err := call(s.nobody, s.conn, method)
		refused := sameError(err, rpctypes.ErrGRPCUserEmpty) || status.Code(err) == codes.Unauthenticated
		if slices.Contains(open, method) {
			refused = !refused
		}
		if method == "/etcdserverpb.Watch/Watch" || method == "/baton.kv.v1.AuthService/Login" {
			continue // One refuses each watch, see TestRightsToWatch; the other, nobody's password.
		}
		if !refused {
			t.Errorf("%s by nobody: %v", method, err)
		}
		if slices.Contains(open, method) {
			continue
		}
		if err := call(s.root, s.conn, method); status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Unauthenticated {
			t.Errorf("%s by root: %v", method, err)
		}
	}
	if count < 70 {
		t.Errorf("there are only %d methods: the list is broken", count)
	}
}

// listed is all methods of a server, without the end of access control, which would end the
// test's as well.
func listed(t *testing.T, conn *grpc.ClientConn) (all []string) {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range answer.GetListServicesResponse().GetService() {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service.GetName()))
		if err != nil {
			t.Fatal(err)
		}
		descriptions := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range descriptions.Len() {
			if name := string(descriptions.Get(i).Name()); name != "AuthDisable" {
				all = append(all, "/"+service.GetName()+"/"+name)
			}
		}
	}
	return all
}

// call calls a method with an empty message, and waits for a moment for an answer.
func call(ctx context.Context, conn *grpc.ClientConn, method string) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(&emptypb.Empty{})
}
