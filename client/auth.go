package client

import (
	"context"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// AuthStatus says whether access control is on. It needs no login.
func (c *Client) AuthStatus(ctx context.Context) (*kvv1.AuthStatusResponse, error) {
	var response *kvv1.AuthStatusResponse
	err := c.do(withoutLogin(ctx), call{send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewAuthServiceClient(conn).AuthStatus(ctx, &kvv1.AuthStatusRequest{})
		return response.GetHeader(), err
	}})
	return response, err
}

// Login checks the password of a user, and returns a token and how long it can be used.
// A client with Options.User needs no call of it: it logs in by itself. It fails with
// [ErrUnauthenticated].
func (c *Client) Login(ctx context.Context, user, password string) (token string, ttl time.Duration, err error) {
	return c.login(ctx, user, password)
}

// ChangeAuth makes one change of users and roles, or turns access control on or off.
// password is the added user's, or a user's new one. While access control is on,
// it needs the role "root". After an unknown outcome look at what there is.
func (c *Client) ChangeAuth(ctx context.Context, change *kvv1.AuthChange, password string) (*kvv1.ChangeAuthResponse, error) {
	var response *kvv1.ChangeAuthResponse
	err := c.do(ctx, call{want: theMaster, write: true, once: true, send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewAuthServiceClient(conn).ChangeAuth(ctx, &kvv1.ChangeAuthRequest{Change: change, Password: password})
		return response.GetHeader(), err
	}})
	return response, err
}

// Users returns one user, or all if the name is empty. Without the role "root" a user
// may only see itself.
func (c *Client) Users(ctx context.Context, name string) ([]*kvv1.AuthUser, error) {
	var response *kvv1.ListUsersResponse
	err := c.do(ctx, call{send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewAuthServiceClient(conn).ListUsers(ctx, &kvv1.ListUsersRequest{Name: name})
		return response.GetHeader(), err
	}})
	return response.GetUsers(), err
}

// Roles returns one role, or all if the name is empty. Without the role "root" a user
// may only see those that it has.
func (c *Client) Roles(ctx context.Context, name string) ([]*kvv1.AuthRole, error) {
	var response *kvv1.ListRolesResponse
	err := c.do(ctx, call{send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewAuthServiceClient(conn).ListRoles(ctx, &kvv1.ListRolesRequest{Name: name})
		return response.GetHeader(), err
	}})
	return response.GetRoles(), err
}

// Tenants returns one tenant, or all if the name is empty, and what they use. Without
// the role "root" a caller may only see its own. It fails with [ErrTenantNotFound].
func (c *Client) Tenants(ctx context.Context, name string) ([]*kvv1.TenantStatus, error) {
	return c.tenants(ctx, &kvv1.ListTenantsRequest{Name: name})
}

// OwnTenant returns the tenant that the client's user belongs to. It fails with
// [ErrTenantNotFound].
func (c *Client) OwnTenant(ctx context.Context) (*kvv1.TenantStatus, error) {
	found, err := c.tenants(ctx, &kvv1.ListTenantsRequest{Own: true})
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (c *Client) tenants(ctx context.Context, req *kvv1.ListTenantsRequest) ([]*kvv1.TenantStatus, error) {
	var response *kvv1.ListTenantsResponse
	err := c.do(ctx, call{send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewAuthServiceClient(conn).ListTenants(ctx, req)
		return response.GetHeader(), err
	}})
	return response.GetTenants(), err
}
