package rights

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// method is where a request goes, and what its answer is.
type method struct {
	name   string
	answer proto.Message
}

var methods = map[string]method{
	"RangeRequest":                    {"KV/Range", &pb.RangeResponse{}},
	"PutRequest":                      {"KV/Put", &pb.PutResponse{}},
	"DeleteRangeRequest":              {"KV/DeleteRange", &pb.DeleteRangeResponse{}},
	"TxnRequest":                      {"KV/Txn", &pb.TxnResponse{}},
	"LeaseGrantRequest":               {"Lease/LeaseGrant", &pb.LeaseGrantResponse{}},
	"LeaseRevokeRequest":              {"Lease/LeaseRevoke", &pb.LeaseRevokeResponse{}},
	"LeaseTimeToLiveRequest":          {"Lease/LeaseTimeToLive", &pb.LeaseTimeToLiveResponse{}},
	"LeaseLeasesRequest":              {"Lease/LeaseLeases", &pb.LeaseLeasesResponse{}},
	"AuthenticateRequest":             {"Auth/Authenticate", &pb.AuthenticateResponse{}},
	"AuthStatusRequest":               {"Auth/AuthStatus", &pb.AuthStatusResponse{}},
	"AuthEnableRequest":               {"Auth/AuthEnable", &pb.AuthEnableResponse{}},
	"AuthDisableRequest":              {"Auth/AuthDisable", &pb.AuthDisableResponse{}},
	"AuthUserAddRequest":              {"Auth/UserAdd", &pb.AuthUserAddResponse{}},
	"AuthUserGetRequest":              {"Auth/UserGet", &pb.AuthUserGetResponse{}},
	"AuthUserListRequest":             {"Auth/UserList", &pb.AuthUserListResponse{}},
	"AuthUserDeleteRequest":           {"Auth/UserDelete", &pb.AuthUserDeleteResponse{}},
	"AuthUserChangePasswordRequest":   {"Auth/UserChangePassword", &pb.AuthUserChangePasswordResponse{}},
	"AuthUserGrantRoleRequest":        {"Auth/UserGrantRole", &pb.AuthUserGrantRoleResponse{}},
	"AuthUserRevokeRoleRequest":       {"Auth/UserRevokeRole", &pb.AuthUserRevokeRoleResponse{}},
	"AuthRoleAddRequest":              {"Auth/RoleAdd", &pb.AuthRoleAddResponse{}},
	"AuthRoleGetRequest":              {"Auth/RoleGet", &pb.AuthRoleGetResponse{}},
	"AuthRoleListRequest":             {"Auth/RoleList", &pb.AuthRoleListResponse{}},
	"AuthRoleDeleteRequest":           {"Auth/RoleDelete", &pb.AuthRoleDeleteResponse{}},
	"AuthRoleGrantPermissionRequest":  {"Auth/RoleGrantPermission", &pb.AuthRoleGrantPermissionResponse{}},
	"AuthRoleRevokePermissionRequest": {"Auth/RoleRevokePermission", &pb.AuthRoleRevokePermissionResponse{}},
}

// answer is what a system made of a request.
type answer struct {
	message proto.Message
	err     error
}

func send(ctx context.Context, conn *grpc.ClientConn, request proto.Message) answer {
	if create, ok := request.(*pb.WatchCreateRequest); ok {
		return watch(ctx, conn, create)
	}
	m := methods[string(request.ProtoReflect().Descriptor().Name())]
	message := proto.Clone(m.answer)
	if err := conn.Invoke(ctx, "/etcdserverpb."+m.name, request, message); err != nil {
		return answer{err: err}
	}
	return answer{message: message}
}

// watch returns what begins a watch, or says why there is none.
func watch(ctx context.Context, conn *grpc.ClientConn, create *pb.WatchCreateRequest) answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err == nil {
		err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	}
	var first *pb.WatchResponse
	if err == nil {
		first, err = stream.Recv()
	}
	if err != nil {
		return answer{err: err}
	}
	first.Header = nil // A watch on a pod that is a moment behind begins there.
	return answer{message: first}
}

// normalize removes what cannot be equal: the names of the servers, Raft's term, what a
// clock decides, tokens, and the order of what has none.
func (a answer) normalize() {
	if m, ok := a.message.(interface{ GetHeader() *pb.ResponseHeader }); ok && m.GetHeader() != nil {
		header := m.GetHeader()
		header.ClusterId, header.MemberId, header.RaftTerm = 0, 0, 0
	}
	switch m := a.message.(type) {
	case *pb.AuthenticateResponse:
		m.Token = ""
	case *pb.LeaseTimeToLiveResponse:
		m.TTL = min(m.TTL, 1)
		slices.SortFunc(m.Keys, bytes.Compare)
	case *pb.LeaseLeasesResponse:
		slices.SortFunc(m.Leases, func(x, y *pb.LeaseStatus) int { return cmp.Compare(x.GetID(), y.GetID()) })
	}
}

func (a answer) equal(other answer) bool {
	if a.err != nil || other.err != nil {
		x, y := status.Convert(a.err), status.Convert(other.err)
		return x.Code() == y.Code() && x.Message() == y.Message()
	}
	return proto.Equal(a.message, other.message)
}

func (a answer) String() string {
	if a.err != nil {
		return fmt.Sprintf("%v: %s", status.Code(a.err), status.Convert(a.err).Message())
	}
	return fmt.Sprintf("%T{%s}", a.message, prototext.MarshalOptions{}.Format(a.message))
}
