package etcd

import (
	"context"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/batondb/baton/internal/access"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// authService answers etcdserverpb.Auth: the same users and roles as Baton's own API.
type authService struct {
	pb.UnsafeAuthServer
	pod *pod
}

func (s *authService) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	st, err := s.pod.Newest(ctx)
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	state := st.Access()
	return &pb.AuthStatusResponse{
		Header: s.pod.header(st.Revision()), Enabled: state.Enabled(), AuthRevision: state.Revision(),
	}, nil
}

func (s *authService) Authenticate(ctx context.Context, req *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	token, header, err := s.pod.Login(ctx, req.GetName(), req.GetPassword())
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	return &pb.AuthenticateResponse{Header: s.pod.header(header.GetRevision()), Token: token}, nil
}

// change makes a change, and returns the header of the answer.
func (s *authService) change(ctx context.Context, change *kvv1.AuthChange, password string) (*pb.ResponseHeader, error) {
	changed, err := s.pod.ChangeAuth(ctx, change, password)
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	return s.pod.header(changed.GetHeader().GetRevision()), nil
}

func (s *authService) AuthEnable(ctx context.Context, _ *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	header, err := s.change(ctx, &kvv1.AuthChange{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{}}}, "")
	if err != nil {
		return nil, err
	}
	return &pb.AuthEnableResponse{Header: header}, nil
}

func (s *authService) AuthDisable(ctx context.Context, _ *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	header, err := s.change(ctx, &kvv1.AuthChange{Change: &kvv1.AuthChange_Disable{Disable: &kvv1.DisableAuth{}}}, "")
	if err != nil {
		return nil, err
	}
	return &pb.AuthDisableResponse{Header: header}, nil
}

func (s *authService) UserAdd(ctx context.Context, req *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	if req.GetName() == "" {
		return nil, rpctypes.ErrGRPCUserEmpty
	}
	add := &kvv1.AddUser{Name: req.GetName(), NoPassword: req.GetOptions().GetNoPassword()}
	header, err := s.change(ctx, &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: add}}, req.GetPassword())
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserAddResponse{Header: header}, nil
}

func (s *authService) UserGet(ctx context.Context, req *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	if req.GetName() == "" {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	users, header, err := s.pod.Users(ctx, req.GetName())
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	return &pb.AuthUserGetResponse{Header: s.pod.header(header.GetRevision()), Roles: users[0].GetRoles()}, nil
}

func (s *authService) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	users, header, err := s.pod.Users(ctx, "")
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	response := &pb.AuthUserListResponse{Header: s.pod.header(header.GetRevision())}
	for _, u := range users {
		response.Users = append(response.Users, u.GetName())
	}
	return response, nil
}

func (s *authService) UserDelete(ctx context.Context, req *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	change := &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteUser{DeleteUser: &kvv1.DeleteUser{Name: req.GetName()}}}
	header, err := s.change(ctx, change, "")
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserDeleteResponse{Header: header}, nil
}

func (s *authService) UserChangePassword(ctx context.Context, req *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	change := &kvv1.AuthChange{Change: &kvv1.AuthChange_SetPassword{SetPassword: &kvv1.SetPassword{Name: req.GetName()}}}
	header, err := s.change(ctx, change, req.GetPassword())
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserChangePasswordResponse{Header: header}, nil
}

func (s *authService) UserGrantRole(ctx context.Context, req *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	grant := &kvv1.GrantRole{User: req.GetUser(), Role: req.GetRole()}
	header, err := s.change(ctx, &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: grant}}, "")
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserGrantRoleResponse{Header: header}, nil
}

func (s *authService) UserRevokeRole(ctx context.Context, req *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	revoke := &kvv1.RevokeRole{User: req.GetName(), Role: req.GetRole()}
	header, err := s.change(ctx, &kvv1.AuthChange{Change: &kvv1.AuthChange_RevokeRole{RevokeRole: revoke}}, "")
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserRevokeRoleResponse{Header: header}, nil
}

func (s *authService) RoleAdd(ctx context.Context, req *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	if req.GetName() == "" {
		return nil, rpctypes.ErrGRPCRoleEmpty
	}
	change := &kvv1.AuthChange{Change: &kvv1.AuthChange_AddRole{AddRole: &kvv1.AddRole{Name: req.GetName()}}}
	header, err := s.change(ctx, change, "")
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleAddResponse{Header: header}, nil
}

func (s *authService) RoleGet(ctx context.Context, req *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	if req.GetRole() == "" {
		return nil, rpctypes.ErrGRPCRoleNotFound
	}
	roles, header, err := s.pod.Roles(ctx, req.GetRole())
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	response := &pb.AuthRoleGetResponse{Header: s.pod.header(header.GetRevision())}
	if req.GetRole() == access.Root {
		response.Perm = []*authpb.Permission{{PermType: authpb.Permission_READWRITE, RangeEnd: []byte{0}}}
		return response, nil
	}
	for _, p := range roles[0].GetPermissions() {
		response.Perm = append(response.Perm, &authpb.Permission{PermType: kindOf[p.GetKind()], Key: p.GetKey(), RangeEnd: p.GetRangeEnd()})
	}
	return response, nil
}

func (s *authService) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	roles, header, err := s.pod.Roles(ctx, "")
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	response := &pb.AuthRoleListResponse{Header: s.pod.header(header.GetRevision())}
	for _, r := range roles {
		response.Roles = append(response.Roles, r.GetName())
	}
	return response, nil
}

func (s *authService) RoleDelete(ctx context.Context, req *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	change := &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteRole{DeleteRole: &kvv1.DeleteRole{Name: req.GetRole()}}}
	header, err := s.change(ctx, change, "")
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleDeleteResponse{Header: header}, nil
}

// kindOf is etcd's kind of permission for each of Baton's.
var kindOf = map[kvv1.Permission_Kind]authpb.Permission_Type{
	kvv1.Permission_KIND_READ:      authpb.Permission_READ,
	kvv1.Permission_KIND_WRITE:     authpb.Permission_WRITE,
	kvv1.Permission_KIND_READWRITE: authpb.Permission_READWRITE,
}

func (s *authService) RoleGrantPermission(ctx context.Context, req *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	if req.GetPerm() == nil {
		return nil, rpctypes.ErrGRPCPermissionNotGiven
	}
	permission := &kvv1.Permission{Key: req.GetPerm().GetKey(), RangeEnd: req.GetPerm().GetRangeEnd()}
	for kind, etcds := range kindOf {
		if etcds == req.GetPerm().GetPermType() {
			permission.Kind = kind
		}
	}
	if access.CheckPermission(permission) != nil {
		return nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	grant := &kvv1.GrantPermission{Role: req.GetName(), Permission: permission}
	header, err := s.change(ctx, &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantPermission{GrantPermission: grant}}, "")
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleGrantPermissionResponse{Header: header}, nil
}

func (s *authService) RoleRevokePermission(ctx context.Context, req *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	revoke := &kvv1.RevokePermission{Role: req.GetRole(), Key: req.GetKey(), RangeEnd: req.GetRangeEnd()}
	header, err := s.change(ctx, &kvv1.AuthChange{Change: &kvv1.AuthChange_RevokePermission{RevokePermission: revoke}}, "")
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleRevokePermissionResponse{Header: header}, nil
}
