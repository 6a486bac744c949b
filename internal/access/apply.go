package access

import (
	"bytes"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Apply returns the State after a change, or a refusal that every pod gives. What
// changes nothing returns s.
func (s *State) Apply(change *kvv1.AuthChange) (*State, error) {
	after := s.next()
	changed, err := after.apply(change)
	if err != nil {
		return s, err
	}
	if !changed {
		return s, nil
	}
	if size := proto.Size(after.Proto()); size > MaxBytes {
		return s, tooLarge("users, roles and tenants", MaxBytes, size)
	}
	return after, nil
}

// apply changes s, and says whether it did.
func (s *State) apply(change *kvv1.AuthChange) (bool, error) {
	switch c := change.GetChange().(type) {
	case *kvv1.AuthChange_Enable:
		return s.enable(c.Enable)
	case *kvv1.AuthChange_Disable:
		return s.disable()
	case *kvv1.AuthChange_AddUser:
		return s.addUser(c.AddUser)
	case *kvv1.AuthChange_DeleteUser:
		return s.deleteUser(c.DeleteUser.GetName())
	case *kvv1.AuthChange_SetPassword:
		return s.setPassword(c.SetPassword)
	case *kvv1.AuthChange_GrantRole:
		return s.grantRole(c.GrantRole.GetUser(), c.GrantRole.GetRole())
	case *kvv1.AuthChange_RevokeRole:
		return s.revokeRole(c.RevokeRole.GetUser(), c.RevokeRole.GetRole())
	case *kvv1.AuthChange_AddRole:
		return s.addRole(c.AddRole.GetName())
	case *kvv1.AuthChange_DeleteRole:
		return s.deleteRole(c.DeleteRole.GetName())
	case *kvv1.AuthChange_GrantPermission:
		return s.grantPermission(c.GrantPermission.GetRole(), c.GrantPermission.GetPermission())
	case *kvv1.AuthChange_RevokePermission:
		return s.revokePermission(c.RevokePermission)
	case *kvv1.AuthChange_SetTenant:
		return s.setTenant(c.SetTenant.GetTenant())
	case *kvv1.AuthChange_DeleteTenant:
		return s.deleteTenant(c.DeleteTenant.GetName())
	}
	return false, invalid("change", "there is none that this version knows")
}

// enable does not raise the revision: etcd's does not either.
func (s *State) enable(req *kvv1.EnableAuth) (bool, error) {
	if s.enabled {
		return false, nil
	}
	root := s.users[Root]
	switch {
	case root == nil:
		return false, refused(kvv1.ErrorReason_ERROR_REASON_ROOT_USER_MISSING, "there is no user %q: add it, and grant it the role %q", Root, Root)
	case !root.root:
		return false, refused(kvv1.ErrorReason_ERROR_REASON_ROOT_ROLE_MISSING, "the user %q does not have the role %q: grant it", Root, Root)
	}
	s.enabled, s.key = true, req.GetTokenKey()
	return true, nil
}

func (s *State) disable() (bool, error) {
	if !s.enabled {
		return false, nil
	}
	s.enabled, s.key = false, nil
	s.revision++
	return true, nil
}

func (s *State) addUser(req *kvv1.AddUser) (bool, error) {
	name := req.GetName()
	if err := checkName(name); err != nil {
		return false, err
	}
	if s.users[name] != nil {
		return false, refused(kvv1.ErrorReason_ERROR_REASON_USER_EXISTS, "there is a user %q already", name)
	}
	s.revision++
	u := &kvv1.AuthUser{Name: name, NoPassword: req.GetNoPassword(), Generation: s.revision}
	if !u.NoPassword {
		u.PasswordHash = req.GetPasswordHash()
	}
	s.put(u)
	return true, nil
}

func (s *State) deleteUser(name string) (bool, error) {
	if s.enabled && name == Root {
		return false, rootStays()
	}
	if s.users[name] == nil {
		return false, NoUser(name)
	}
	delete(s.users, name)
	s.leaveTenant(name)
	s.revision++
	return true, nil
}

func (s *State) setPassword(req *kvv1.SetPassword) (bool, error) {
	u, err := s.copyOf(req.GetName())
	if err != nil {
		return false, err
	}
	s.revision++
	if u.Generation = s.revision; !u.NoPassword {
		u.PasswordHash = req.GetPasswordHash()
	}
	s.put(u)
	return true, nil
}

func (s *State) grantRole(name, role string) (bool, error) {
	u, err := s.copyOf(name)
	switch {
	case err != nil:
		return false, err
	case role != Root && s.roles[role] == nil:
		return false, NoRole(role)
	case has(u.GetRoles(), role):
		return false, nil
	}
	u.Roles = append(u.Roles, role)
	slices.Sort(u.Roles)
	s.revision++
	s.put(u)
	return true, nil
}

func (s *State) revokeRole(name, role string) (bool, error) {
	if s.enabled && name == Root && role == Root {
		return false, rootStays()
	}
	u, err := s.copyOf(name)
	switch {
	case err != nil:
		return false, err
	case !has(u.GetRoles(), role):
		return false, refused(kvv1.ErrorReason_ERROR_REASON_ROLE_NOT_GRANTED, "the user %q does not have the role %q", name, role)
	}
	u.Roles = without(u.GetRoles(), role)
	s.revision++
	s.put(u)
	return true, nil
}

// copyOf returns a user to change.
func (s *State) copyOf(name string) (*kvv1.AuthUser, error) {
	if s.users[name] == nil {
		return nil, NoUser(name)
	}
	return proto.Clone(s.users[name].AuthUser).(*kvv1.AuthUser), nil
}

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

func (s *State) addRole(name string) (bool, error) {
	if err := checkName(name); err != nil {
		return false, err
	}
	if s.roles[name] != nil {
		return false, refused(kvv1.ErrorReason_ERROR_REASON_ROLE_EXISTS, "there is a role %q already", name)
	}
	s.revision++
	s.putRole(name, &kvv1.AuthRole{Name: name})
	return true, nil
}

func (s *State) deleteRole(name string) (bool, error) {
	if s.enabled && name == Root {
		return false, rootStays()
	}
	if s.roles[name] == nil {
		return false, NoRole(name)
	}
	delete(s.roles, name)
	for _, u := range s.users {
		if has(u.GetRoles(), name) {
			changed := proto.Clone(u.AuthUser).(*kvv1.AuthUser)
			changed.Roles = without(u.GetRoles(), name)
			s.put(changed)
		}
	}
	s.revision++
	return true, nil
}

func (s *State) grantPermission(name string, p *kvv1.Permission) (bool, error) {
	if err := CheckPermission(p); err != nil {
		return false, err
	}
	role := s.roles[name]
	if role == nil {
		return false, NoRole(name)
	}
	permissions := slices.Clone(role.GetPermissions())
	at := slices.IndexFunc(permissions, func(q *kvv1.Permission) bool { return sameRange(q, p.GetKey(), p.GetRangeEnd()) })
	if at >= 0 {
		permissions[at] = p
	} else {
		// Behind those of the same key.
		at = slices.IndexFunc(permissions, func(q *kvv1.Permission) bool { return bytes.Compare(q.GetKey(), p.GetKey()) > 0 })
		if at < 0 {
			at = len(permissions)
		}
		permissions = slices.Insert(permissions, at, p)
	}
	s.revision++
	s.putRole(name, &kvv1.AuthRole{Name: name, Permissions: permissions})
	return true, nil
}

func (s *State) revokePermission(req *kvv1.RevokePermission) (bool, error) {
	role := s.roles[req.GetRole()]
	if role == nil {
		return false, NoRole(req.GetRole())
	}
	at := slices.IndexFunc(role.GetPermissions(), func(p *kvv1.Permission) bool { return sameRange(p, req.GetKey(), req.GetRangeEnd()) })
	if at < 0 {
		return false, refused(kvv1.ErrorReason_ERROR_REASON_PERMISSION_NOT_GRANTED, "the role %q has no permission on exactly this range", req.GetRole())
	}
	permissions := slices.Delete(slices.Clone(role.GetPermissions()), at, at+1)
	s.revision++
	s.putRole(req.GetRole(), &kvv1.AuthRole{Name: req.GetRole(), Permissions: permissions})
	return true, nil
}

func sameRange(p *kvv1.Permission, key, end []byte) bool {
	return bytes.Equal(p.GetKey(), key) && bytes.Equal(p.GetRangeEnd(), end)
}

// CheckPermission refuses a permission on no range, or of no kind.
func CheckPermission(p *kvv1.Permission) error {
	key, end := p.GetKey(), p.GetRangeEnd()
	_, known := kvv1.Permission_Kind_name[int32(p.GetKind())]
	switch {
	case !known || p.GetKind() == kvv1.Permission_KIND_UNSPECIFIED:
		return invalid("permission.kind", "is neither read nor write nor both")
	case len(key) == 0:
		return invalid("permission.key", "a key must not be empty; \"\\0\" is the first of all")
	case len(end) > 0 && !fromKey(end) && bytes.Compare(key, end) >= 0:
		return invalid("permission.range_end", "is not after the key")
	}
	return nil
}

func checkName(name string) error {
	if name == "" {
		return invalid("name", "a name must not be empty")
	}
	if len(name) > MaxNameBytes {
		return tooLarge("bytes of a name", MaxNameBytes, len(name))
	}
	return nil
}

func tooLarge(what string, limit, actual int) *refusal.Error {
	e := refused(kvv1.ErrorReason_ERROR_REASON_TOO_LARGE, "%s: %d, at most %d", what, actual, limit)
	e.Metadata = map[string]string{"field": what, "limit": strconv.Itoa(limit), "actual": strconv.Itoa(actual)}
	return e
}

// NoUser refuses what names a user who is not there.
func NoUser(name string) error {
	return refused(kvv1.ErrorReason_ERROR_REASON_USER_NOT_FOUND, "there is no user %q", name)
}

// NoRole refuses what names a role that is not there.
func NoRole(name string) error {
	return refused(kvv1.ErrorReason_ERROR_REASON_ROLE_NOT_FOUND, "there is no role %q", name)
}

func rootStays() error {
	return refused(kvv1.ErrorReason_ERROR_REASON_ROOT_PROTECTED,
		"while access control is on, the user %q and its role %q stay as they are: disable it first", Root, Root)
}
