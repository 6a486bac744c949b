package rights

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/test/etcd/answers"
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

func send(ctx context.Context, conn *grpc.ClientConn, request proto.Message) answers.Answer {
	if create, ok := request.(*pb.WatchCreateRequest); ok {
		return watch(ctx, conn, create)
	}
	m := methods[string(request.ProtoReflect().Descriptor().Name())]
	message := proto.Clone(m.answer)
	if err := conn.Invoke(ctx, "/etcdserverpb."+m.name, request, message); err != nil {
		return answers.Answer{Err: err}
	}
	return answers.Answer{Message: message}
}

// watch returns what begins a watch, or says why there is none.
func watch(ctx context.Context, conn *grpc.ClientConn, create *pb.WatchCreateRequest) answers.Answer {
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
		return answers.Answer{Err: err}
	}
	first.Header = nil // A watch on a pod that is a moment behind begins there.
	return answers.Answer{Message: first}
}
