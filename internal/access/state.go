package access

import (
	"fmt"
	"maps"
	"slices"
	"sort"

	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Root is the user who must exist, and the role that may do everything.
const Root = "root"

const (
	// MaxNameBytes is the longest name of a user or a role: a ServiceAccount's is at
	// most 340.
	MaxNameBytes = 512
	// MaxBytes is all of it as it is stored. Each change writes all of it again.
	MaxBytes = 16 << 20
)

// State is all users, roles and tenants after some change. It never changes. The nil State is
// the one before the first change.
type State struct {
	enabled  bool
	revision uint64
	key      []byte
	users    map[string]*user
	roles    map[string]*kvv1.AuthRole
	tenants  *tenants
}

// user is a user with all that its roles and its tenant permit, put together.
type user struct {
	*kvv1.AuthUser
	root        bool
	read, write spans
}

// firstRevision is etcd's, before the first change.
const firstRevision = 1

func empty() *State {
	return &State{revision: firstRevision, users: map[string]*user{}, roles: map[string]*kvv1.AuthRole{}}
}

// Load makes the State that Proto has written; nil for none.
func Load(stored *kvv1.AuthState) *State {
	if stored == nil {
		return nil
	}
	s := empty()
	s.enabled, s.revision, s.key = stored.GetEnabled(), stored.GetRevision(), stored.GetTokenKey()
	for _, role := range stored.GetRoles() {
		s.roles[role.GetName()] = role
	}
	rooms := map[string]*tenant{}
	for _, record := range stored.GetTenants() {
		rooms[record.GetName()] = newTenant(record)
	}
	s.tenants = newTenants(rooms)
	for _, u := range stored.GetUsers() {
		s.put(u)
	}
	return s
}

// Proto is the State as it is stored; it must not be changed.
func (s *State) Proto() *kvv1.AuthState {
	if s == nil {
		return nil
	}
	stored := &kvv1.AuthState{Enabled: s.enabled, Revision: s.revision, TokenKey: s.key, Roles: s.Roles(), Tenants: s.Tenants()}
	for _, name := range slices.Sorted(maps.Keys(s.users)) {
		stored.Users = append(stored.Users, s.users[name].AuthUser)
	}
	return stored
}

// Encode is Proto in bytes, the same on every pod.
func (s *State) Encode() []byte {
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(s.Proto())
	if err != nil {
		panic("access: the state does not encode: " + err.Error())
	}
	return encoded
}

// Enabled says whether access control is on.
func (s *State) Enabled() bool { return s != nil && s.enabled }

// Revision rises with each change.
func (s *State) Revision() uint64 {
	if s == nil {
		return firstRevision
	}
	return s.revision
}

// TokenKey signs tokens; nil: there are none.
func (s *State) TokenKey() []byte {
	if s == nil {
		return nil
	}
	return s.key
}

// User returns a user, which must not be changed; nil: there is none.
func (s *State) User(name string) *kvv1.AuthUser {
	if s == nil || s.users[name] == nil {
		return nil
	}
	return s.users[name].AuthUser
}

// Users returns all users in the order of names. They must not be changed.
func (s *State) Users() []*kvv1.AuthUser { return s.Proto().GetUsers() }

// Role returns a role, which must not be changed; nil: there is none.
func (s *State) Role(name string) *kvv1.AuthRole {
	if s == nil {
		return nil
	}
	return s.roles[name]
}

// Roles returns all roles in the order of names. They must not be changed.
func (s *State) Roles() []*kvv1.AuthRole {
	if s == nil {
		return nil
	}
	all := make([]*kvv1.AuthRole, 0, len(s.roles))
	for _, name := range slices.Sorted(maps.Keys(s.roles)) {
		all = append(all, s.roles[name])
	}
	return all
}

// put adds or replaces a user, with what its roles and its tenant permit now.
func (s *State) put(record *kvv1.AuthUser) {
	u := &user{AuthUser: record}
	for _, name := range record.GetRoles() {
		u.root = u.root || name == Root
		for _, p := range s.roles[name].GetPermissions() {
			span := permitted(p)
			if p.GetKind() != kvv1.Permission_KIND_WRITE {
				u.read = append(u.read, span)
			}
			if p.GetKind() != kvv1.Permission_KIND_READ {
				u.write = append(u.write, span)
			}
		}
	}
	if t := s.tenants.of(record.GetName()); t != nil {
		t.permit(u)
	}
	u.read, u.write = u.read.merged(), u.write.merged()
	s.users[record.GetName()] = u
}

// putRole adds, replaces or with nil removes a role, for all users that have it.
func (s *State) putRole(name string, role *kvv1.AuthRole) {
	if role == nil {
		delete(s.roles, name)
	} else {
		s.roles[name] = role
	}
	for _, u := range s.users {
		if has(u.GetRoles(), name) {
			s.put(u.AuthUser)
		}
	}
}

func has(sorted []string, name string) bool {
	at := sort.SearchStrings(sorted, name)
	return at < len(sorted) && sorted[at] == name
}

// next is a copy to change; records are replaced, never changed.
func (s *State) next() *State {
	if s == nil {
		return empty()
	}
	copied := *s
	copied.users, copied.roles = maps.Clone(s.users), maps.Clone(s.roles)
	return &copied
}

func refused(reason kvv1.ErrorReason, format string, args ...any) *refusal.Error {
	return &refusal.Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func invalid(field, what string) *refusal.Error {
	e := refused(kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST, "%s: %s", field, what)
	e.Metadata = map[string]string{"field": field}
	return e
}
