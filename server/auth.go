package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// authService answers baton.kv.v1.AuthService.
type authService struct {
	kvv1.UnsafeAuthServiceServer
	core *core
}

func (s *authService) AuthStatus(ctx context.Context, _ *kvv1.AuthStatusRequest) (*kvv1.AuthStatusResponse, error) {
	st, err := s.core.newest(ctx)
	if err != nil {
		return nil, err
	}
	state := st.Access()
	return &kvv1.AuthStatusResponse{Header: s.core.header(st), Enabled: state.Enabled(), AuthRevision: state.Revision()}, nil
}

func (s *authService) Login(ctx context.Context, req *kvv1.LoginRequest) (*kvv1.LoginResponse, error) {
	token, header, err := s.core.login(ctx, req.GetUser(), req.GetPassword())
	if err != nil {
		return nil, err
	}
	return &kvv1.LoginResponse{Header: header, Token: token, TtlSeconds: int64(s.core.bounds.passwords.ttl / time.Second)}, nil
}

func (s *authService) ChangeAuth(ctx context.Context, req *kvv1.ChangeAuthRequest) (*kvv1.ChangeAuthResponse, error) {
	return s.core.changeAuth(ctx, req.GetChange(), req.GetPassword())
}

func (s *authService) ListUsers(ctx context.Context, req *kvv1.ListUsersRequest) (*kvv1.ListUsersResponse, error) {
	users, header, err := s.core.users(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &kvv1.ListUsersResponse{Header: header, Users: users}, nil
}

func (s *authService) ListTenants(ctx context.Context, req *kvv1.ListTenantsRequest) (*kvv1.ListTenantsResponse, error) {
	return s.core.tenants(ctx, req)
}

func (s *authService) ListRoles(ctx context.Context, req *kvv1.ListRolesRequest) (*kvv1.ListRolesResponse, error) {
	roles, header, err := s.core.roles(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &kvv1.ListRolesResponse{Header: header, Roles: roles}, nil
}

// users returns one user, or all if the name is empty, without their passwords.
func (c *core) users(ctx context.Context, name string) ([]*kvv1.AuthUser, *kvv1.ResponseHeader, error) {
	st, err := c.newest(ctx)
	if err != nil {
		return nil, nil, err
	}
	state, who := st.Access(), caller.From(ctx)
	if err := state.Admin(who); err != nil && (name == "" || who.User != name) {
		return nil, nil, err
	}
	users := state.Users()
	if name != "" {
		if users = []*kvv1.AuthUser{state.User(name)}; users[0] == nil {
			return nil, nil, access.NoUser(name)
		}
	}
	shown := make([]*kvv1.AuthUser, len(users))
	for i, u := range users {
		shown[i] = proto.Clone(u).(*kvv1.AuthUser)
		shown[i].PasswordHash = nil
	}
	return shown, c.header(st), nil
}

// roles returns one role, or all if the name is empty.
func (c *core) roles(ctx context.Context, name string) ([]*kvv1.AuthRole, *kvv1.ResponseHeader, error) {
	st, err := c.newest(ctx)
	if err != nil {
		return nil, nil, err
	}
	state, who := st.Access(), caller.From(ctx)
	if err := state.Admin(who); err != nil && !state.HasRole(who, name) {
		return nil, nil, err
	}
	if name == "" {
		return state.Roles(), c.header(st), nil
	}
	role := state.Role(name)
	if role == nil {
		return nil, nil, access.NoRole(name)
	}
	return []*kvv1.AuthRole{role}, c.header(st), nil
}

// login gives a token for a password.
func (c *core) login(ctx context.Context, user, password string) (token string, header *kvv1.ResponseHeader, err error) {
	st, err := c.newest(ctx)
	if err != nil {
		return "", nil, err
	}
	state := st.Access()
	if !state.Enabled() {
		return "", nil, errAuthNotEnabled
	}
	address := ""
	if from, ok := peer.FromContext(ctx); ok {
		address = host(from.Addr)
	}
	if len(user) > access.MaxNameBytes || len(password) > maxPasswordBytes {
		return "", nil, errLoginFailed
	}
	if !c.bounds.passwords.attempts.may(user, address) {
		return "", nil, errTooManyFailures
	}
	record := state.User(user)
	good, err := c.bounds.passwords.matches(ctx, record, password)
	if err != nil {
		return "", nil, err
	}
	c.bounds.passwords.attempts.ended(user, address, good)
	if !good {
		c.options.Logger.Warn("a login failed", slog.String("user", user), slog.String("address", address))
		return "", nil, errLoginFailed
	}
	return newToken(state.TokenKey(), user, record.GetGeneration(), time.Now().Add(c.bounds.passwords.ttl)), c.header(st), nil
}

// changeAuth proposes a change of users and roles. The log gets the password's hash.
func (c *core) changeAuth(ctx context.Context, change *kvv1.AuthChange, password string) (*kvv1.ChangeAuthResponse, error) {
	err := checkAuthChange(change)
	if err != nil {
		return nil, err
	}
	change = proto.Clone(change).(*kvv1.AuthChange)
	switch m := change.GetChange().(type) {
	case *kvv1.AuthChange_Enable:
		m.Enable.TokenKey = make([]byte, tokenKeyBytes)
		_, _ = rand.Read(m.Enable.TokenKey) // Never fails.
		err = c.somebodyAdministers(ctx, change)
	case *kvv1.AuthChange_DeleteUser, *kvv1.AuthChange_RevokeRole:
		err = c.somebodyAdministers(ctx, change)
	case *kvv1.AuthChange_AddUser:
		if m.AddUser.PasswordHash = nil; !m.AddUser.GetNoPassword() {
			m.AddUser.PasswordHash, err = c.bounds.passwords.hash(ctx, password)
		}
	case *kvv1.AuthChange_SetPassword:
		m.SetPassword.PasswordHash, err = c.bounds.passwords.hash(ctx, password)
	case *kvv1.AuthChange_SetTenant:
		if !c.access().HasTenants() {
			err = c.everyPodKnows(ctx, "tenants", (*kvv1.PodStatus).GetTenants)
		}
	}
	if err == nil && c.access() == nil {
		err = c.everyPodKnows(ctx, "users and roles", (*kvv1.PodStatus).GetAccessControl)
	}
	if err != nil {
		return nil, err
	}
	changed, err := propose(ctx, c, &kvv1.Command{Command: &kvv1.Command_Auth{Auth: change}}, (*kvv1.Result).GetAuth)
	if tenant := change.GetSetTenant().GetTenant(); err == nil && tenant != nil {
		c.awaitCount(ctx, tenant.GetName(), changed.GetAuthRevision())
	}
	return changed, err
}

const tokenKeyBytes = 32

// somebodyAdministers refuses a change after which access control would be on, and it
// would be known of nobody that they could change anything, not even disable it: of those
// with the role "root" one must have a password, or have made this call.
func (c *core) somebodyAdministers(ctx context.Context, change *kvv1.AuthChange) error {
	st, err := c.prepareRead(ctx, nil)
	if err != nil {
		return err
	}
	after, err := st.Access().Apply(change)
	if err != nil || !after.Enabled() || after.HasRole(caller.From(ctx), access.Root) {
		return nil //nolint:nilerr // Where it is applied it is refused as well, in words that etcdctl goes by.
	}
	for _, u := range after.Users() {
		if slices.Contains(u.GetRoles(), access.Root) && !u.GetNoPassword() && len(u.GetPasswordHash()) > 0 {
			return nil
		}
	}
	return errInvalid("change", "nobody with the role %q would have a password, and this call is by none of them: it would lock everybody out", access.Root)
}

// everyPodKnows refuses the first change of users and roles, or of tenants, until every
// member says that its version has them: another one would stop at the change. Later it
// would not start on this data, so that nothing is left to ask.
func (c *core) everyPodKnows(ctx context.Context, what string, knows func(*kvv1.PodStatus) bool) error {
	log, err := c.needLog()
	if err != nil {
		return err
	}
	var without []string
	for _, a := range askAll(ctx, log, c.others(log)) {
		switch {
		case a.err != nil:
			without = append(without, a.member.Pod+" "+whyUnreachable(a.err))
		case !knows(a.status):
			without = append(without, fmt.Sprintf("%s runs version %s", a.member.Pod, a.status.GetVersion()))
		}
	}
	if len(without) == 0 {
		return nil
	}
	slices.Sort(without)
	return &refusal.Error{
		Reason:  kvv1.ErrorReason_ERROR_REASON_VERSION_TOO_OLD,
		Message: fmt.Sprintf("before there are %s, every pod must run a version that has them: %v", what, without),
	}
}

var (
	errAuthNotEnabled error = &refusal.Error{
		Reason:  kvv1.ErrorReason_ERROR_REASON_AUTH_NOT_ENABLED,
		Message: "access control is off: nobody needs to log in",
	}
	errTooManyFailures error = &refusal.Error{
		Reason:  kvv1.ErrorReason_ERROR_REASON_OVERLOADED,
		Message: "too many logins have failed: wait, and check the password",
	}
)
