package rights

import (
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// root is the user that stays, and its role.
const root = "root"

// bounds are the keys of all ranges; between two neighbours in world no right changes.
var (
	bounds = []string{"a", "b", "c", "d", "e"}
	ends   = []string{"", "\x00", "b", "c", "d", "e", "c\x00"}
	world  = []string{"\x00", "a", "a\x00", "b", "b\x00", "c", "c\x00", "c\x00\x00", "d", "d\x00", "e", "e\x00", "\xff"}
)

// model is who may do what, as naively as it can be told.
type model struct {
	enabled bool
	users   map[string]*user
	roles   map[string][]*authpb.Permission
}

type user struct {
	password string // Empty: none.
	roles    []string
}

func in(k, key, end string) bool {
	switch end {
	case "":
		return k == key
	case "\x00":
		return k >= key
	}
	return k >= key && k < end
}

// claim is a right on all keys of a range.
type claim struct {
	key, end string
	write    bool
}

func (m *model) may(name string, c claim) bool {
	u := m.users[name]
	if !m.enabled || u != nil && slices.Contains(u.roles, root) {
		return true
	}
	for _, k := range world {
		if in(k, c.key, c.end) && !m.covers(u, k, c.write) {
			return false
		}
	}
	return true
}

func (m *model) covers(u *user, k string, write bool) bool {
	if u == nil {
		return false
	}
	for _, role := range u.roles {
		for _, p := range m.roles[role] {
			fits := p.GetPermType() == authpb.Permission_READWRITE || (p.GetPermType() == authpb.Permission_WRITE) == write
			if fits && in(k, string(p.GetKey()), string(p.GetRangeEnd())) {
				return true
			}
		}
	}
	return false
}

// claims are what a request needs; known is false if that depends on more, such as a
// lease's keys.
func claims(request any) (all []claim, known bool) {
	known = true
	need := func(key, end []byte, write bool) {
		all = append(all, claim{string(key), string(end), write})
	}
	var visit func(request any)
	visit = func(request any) {
		switch r := request.(type) {
		case *pb.RangeRequest:
			need(r.GetKey(), r.GetRangeEnd(), false)
		case *pb.PutRequest:
			known = known && r.GetLease() == 0
			need(r.GetKey(), nil, true)
			if r.GetPrevKv() {
				need(r.GetKey(), nil, false)
			}
		case *pb.DeleteRangeRequest:
			need(r.GetKey(), r.GetRangeEnd(), true)
			if r.GetPrevKv() {
				need(r.GetKey(), r.GetRangeEnd(), false)
			}
		case *pb.WatchCreateRequest:
			need(r.GetKey(), r.GetRangeEnd(), false)
		case *pb.TxnRequest:
			for _, c := range r.GetCompare() {
				need(c.GetKey(), c.GetRangeEnd(), false)
			}
			for _, op := range slices.Concat(r.GetSuccess(), r.GetFailure()) {
				switch o := op.GetRequest().(type) {
				case *pb.RequestOp_RequestRange:
					visit(o.RequestRange)
				case *pb.RequestOp_RequestPut:
					visit(o.RequestPut)
				case *pb.RequestOp_RequestDeleteRange:
					visit(o.RequestDeleteRange)
				case *pb.RequestOp_RequestTxn:
					visit(o.RequestTxn)
				}
			}
		default:
			known = false
		}
	}
	visit(request)
	return all, known
}

// change makes a change that both systems have made.
func (m *model) change(request any) {
	switch r := request.(type) {
	case *pb.AuthEnableRequest:
		m.enabled = true
	case *pb.AuthDisableRequest:
		m.enabled = false
	case *pb.AuthUserAddRequest:
		m.users[r.GetName()] = &user{password: r.GetPassword()}
	case *pb.AuthUserDeleteRequest:
		delete(m.users, r.GetName())
	case *pb.AuthUserChangePasswordRequest:
		if u := m.users[r.GetName()]; u.password != "" {
			u.password = r.GetPassword()
		}
	case *pb.AuthUserGrantRoleRequest:
		if u := m.users[r.GetUser()]; !slices.Contains(u.roles, r.GetRole()) {
			u.roles = append(u.roles, r.GetRole())
		}
	case *pb.AuthUserRevokeRoleRequest:
		u := m.users[r.GetName()]
		u.roles = slices.DeleteFunc(u.roles, func(role string) bool { return role == r.GetRole() })
	case *pb.AuthRoleAddRequest:
		m.roles[r.GetName()] = nil
	case *pb.AuthRoleDeleteRequest:
		delete(m.roles, r.GetRole())
		for _, u := range m.users {
			u.roles = slices.DeleteFunc(u.roles, func(role string) bool { return role == r.GetRole() })
		}
	case *pb.AuthRoleGrantPermissionRequest:
		m.revoke(r.GetName(), r.GetPerm().GetKey(), r.GetPerm().GetRangeEnd())
		m.roles[r.GetName()] = append(m.roles[r.GetName()], r.GetPerm())
	case *pb.AuthRoleRevokePermissionRequest:
		m.revoke(r.GetRole(), r.GetKey(), r.GetRangeEnd())
	}
}

func (m *model) revoke(role string, key, end []byte) {
	m.roles[role] = slices.DeleteFunc(m.roles[role], func(p *authpb.Permission) bool {
		return string(p.GetKey()) == string(key) && string(p.GetRangeEnd()) == string(end)
	})
}

// doubled says that a role has a permission on another range of the same key: what etcd
// makes of a grant then is named in docs/etcd.md.
func (m *model) doubled(role string, key, end []byte) bool {
	return slices.ContainsFunc(m.roles[role], func(p *authpb.Permission) bool {
		return string(p.GetKey()) == string(key) && string(p.GetRangeEnd()) != string(end)
	})
}
