package clienttest

import (
	"context"
	"strconv"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Users and roles are kept, and asked for, but nobody is refused anything: a password is
// its own hash, and a token names its user.

func (p *pod) AuthStatus(context.Context, *kvv1.AuthStatusRequest) (*kvv1.AuthStatusResponse, error) {
	state := p.data.store.Access()
	return &kvv1.AuthStatusResponse{Header: p.header(p.data.store.Revision()), Enabled: p.data.enabled.Load(), AuthRevision: state.Revision()}, nil
}

func (p *pod) Login(_ context.Context, r *kvv1.LoginRequest) (*kvv1.LoginResponse, error) {
	switch user := p.data.store.Access().User(r.GetUser()); {
	case !p.data.enabled.Load():
		return nil, &refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_AUTH_NOT_ENABLED, Message: "access control is off"}
	case user == nil || string(user.GetPasswordHash()) != r.GetPassword():
		return nil, &refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_LOGIN_FAILED, Message: "there is no such user with this password"}
	}
	return &kvv1.LoginResponse{Header: p.header(p.data.store.Revision()), Token: "token of " + r.GetUser(), TtlSeconds: 3600}, nil
}

func (p *pod) ChangeAuth(_ context.Context, r *kvv1.ChangeAuthRequest) (*kvv1.ChangeAuthResponse, error) {
	switch c := r.GetChange().GetChange().(type) {
	case *kvv1.AuthChange_Enable, *kvv1.AuthChange_Disable:
		_, enable := c.(*kvv1.AuthChange_Enable)
		p.data.enabled.Store(enable)
		return &kvv1.ChangeAuthResponse{AuthRevision: p.data.store.Access().Revision()}, nil
	case *kvv1.AuthChange_AddUser:
		c.AddUser.PasswordHash = []byte(r.GetPassword())
	case *kvv1.AuthChange_SetPassword:
		c.SetPassword.PasswordHash = []byte(r.GetPassword())
	}
	changed, err := propose(p, &kvv1.Command{Command: &kvv1.Command_Auth{Auth: r.GetChange()}}, (*kvv1.Result).GetAuth)
	if err == nil {
		err = p.count(r.GetChange().GetSetTenant().GetTenant().GetName())
	}
	return changed, err
}

// count counts what there is of a new tenant, as a master does.
func (p *pod) count(tenant string) error {
	for {
		step, err := p.data.store.CountStep(tenant)
		if step == nil || err != nil {
			return err
		}
		change := &kvv1.AuthChange{Change: &kvv1.AuthChange_CountTenant{CountTenant: step}}
		if _, err := p.data.apply(&kvv1.Command{Command: &kvv1.Command_Auth{Auth: change}}); err != nil {
			return err
		}
	}
}

func (p *pod) ListUsers(context.Context, *kvv1.ListUsersRequest) (*kvv1.ListUsersResponse, error) {
	return &kvv1.ListUsersResponse{Users: p.data.store.Access().Users()}, nil
}

func (p *pod) ListRoles(context.Context, *kvv1.ListRolesRequest) (*kvv1.ListRolesResponse, error) {
	return &kvv1.ListRolesResponse{Roles: p.data.store.Access().Roles()}, nil
}

func (p *pod) ListTenants(_ context.Context, r *kvv1.ListTenantsRequest) (*kvv1.ListTenantsResponse, error) {
	response, used := &kvv1.ListTenantsResponse{}, p.data.store.TenantUsage()
	for _, t := range p.data.store.Access().Tenants() {
		if r.GetName() == "" || r.GetName() == t.GetName() {
			u := used[t.GetName()]
			response.Tenants = append(response.Tenants, &kvv1.TenantStatus{Tenant: t, Keys: u.Keys, Bytes: u.Bytes, Counting: u.Next != nil})
		}
	}
	if r.GetOwn() {
		return nil, &refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_TENANT_NOT_FOUND, Message: "the caller belongs to no tenant"}
	}
	if r.GetName() != "" && len(response.Tenants) == 0 {
		return nil, &refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_TENANT_NOT_FOUND, Message: "there is no tenant " + strconv.Quote(r.GetName())}
	}
	return response, nil
}
