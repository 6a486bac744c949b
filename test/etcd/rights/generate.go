package rights

import (
	"math/rand/v2"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Users and roles have the same few names.
var names = []string{root, "a", "b", "c"}

// generator makes random requests.
type generator struct {
	*rand.Rand
	model  *model
	leases int64
	wrong  int // Wrong passwords so far: after some, Baton slows logins down.
}

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func pick[T any](g *generator, from []T) T { return from[g.IntN(len(from))] }

// keyRange is never one that ends before it begins: whether etcd permits that depends on
// the shape of its tree of intervals.
func (g *generator) keyRange() (key, end []byte) {
	for {
		key, end = []byte(pick(g, bounds)), []byte(pick(g, ends))
		if len(end) == 0 || string(end) == "\x00" || string(key) < string(end) {
			return key, end
		}
	}
}

// request is mostly one for keys.
func (g *generator) request() proto.Message {
	switch n := g.IntN(100); {
	case n < 12:
		return g.change()
	case n < 16:
		return g.question()
	case n < 24:
		return g.lease()
	case n < 29:
		key, end := g.keyRange()
		return &pb.WatchCreateRequest{Key: key, RangeEnd: end}
	}
	return g.keys(0)
}

func (g *generator) keys(depth int) proto.Message {
	key, end := g.keyRange()
	switch n := g.IntN(10); {
	case n < 3:
		if depth > 0 {
			key = []byte(pick(g, bounds[:4]))
		}
		put := &pb.PutRequest{Key: key, Value: []byte{byte(g.IntN(8))}, PrevKv: g.chance(30)}
		if g.chance(10) {
			put.Lease = 1 + g.Int64N(g.leases+1)
		}
		return put
	case n < 6:
		r := &pb.RangeRequest{Key: key, RangeEnd: end, CountOnly: g.chance(10), KeysOnly: g.chance(10)}
		if g.chance(30) { // What is left to count may end where the right ends.
			r.Limit, r.SortOrder = g.Int64N(4), pick(g, []pb.RangeRequest_SortOrder{pb.RangeRequest_NONE, pb.RangeRequest_DESCEND})
		}
		return r
	case n < 8 || depth == 3:
		if depth > 0 {
			// Not a key that a put of the transaction writes: what etcd does not see of
			// that is named in docs/etcd.md.
			key, end = []byte("e"), nil
		}
		return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: g.chance(30)}
	}
	txn := &pb.TxnRequest{}
	for range g.IntN(2) {
		key, end := g.keyRange()
		txn.Compare = append(txn.Compare, &pb.Compare{Key: key, RangeEnd: end, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER})
	}
	for _, ops := range []*[]*pb.RequestOp{&txn.Success, &txn.Failure} {
		for range g.IntN(3) {
			switch r := g.keys(depth + 1).(type) {
			case *pb.PutRequest:
				*ops = append(*ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}})
			case *pb.RangeRequest:
				*ops = append(*ops, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}})
			case *pb.DeleteRangeRequest:
				*ops = append(*ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}})
			case *pb.TxnRequest:
				*ops = append(*ops, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}})
			}
		}
	}
	return txn
}

func (g *generator) lease() proto.Message {
	id := 1 + g.Int64N(g.leases+1)
	switch g.IntN(5) {
	case 0:
		g.leases++
		return &pb.LeaseGrantRequest{ID: g.leases, TTL: 100_000}
	case 1:
		return &pb.LeaseRevokeRequest{ID: id}
	case 2:
		return &pb.LeaseLeasesRequest{}
	}
	return &pb.LeaseTimeToLiveRequest{ID: id, Keys: g.chance(70)}
}

func (g *generator) question() proto.Message {
	switch g.IntN(6) {
	case 0:
		return &pb.AuthUserGetRequest{Name: pick(g, names)}
	case 1:
		return &pb.AuthRoleGetRequest{Role: pick(g, names)}
	case 2:
		return &pb.AuthUserListRequest{}
	case 3:
		return &pb.AuthRoleListRequest{}
	case 4:
		return &pb.AuthStatusRequest{}
	}
	password := "wrong"
	name := pick(g, names)
	if u := g.model.users[name]; u != nil && u.password != "" && (g.wrong > 5 || g.chance(80)) {
		password = u.password
	} else if g.wrong++; g.wrong > 5 || u != nil && u.password == "" {
		return &pb.AuthStatusRequest{} // A user without a password is named in docs/etcd.md.
	}
	return &pb.AuthenticateRequest{Name: name, Password: password}
}

func (g *generator) change() proto.Message {
	name, role := pick(g, names), pick(g, names)
	if !g.model.enabled && (name == root || role == root) {
		name, role = "a", "a" // Root must stay, to turn it on again.
	}
	switch g.IntN(22) {
	case 0, 1:
		return &pb.AuthUserAddRequest{Name: name, Password: name + "s", Options: &authpb.UserAddOptions{}}
	case 2:
		return &pb.AuthUserDeleteRequest{Name: name}
	case 3:
		return &pb.AuthUserChangePasswordRequest{Name: name, Password: name + pick(g, []string{"s", "z"})}
	case 4, 5, 6:
		return &pb.AuthUserGrantRoleRequest{User: name, Role: role}
	case 7:
		return &pb.AuthUserRevokeRoleRequest{Name: name, Role: role}
	case 8, 9:
		return &pb.AuthRoleAddRequest{Name: role}
	case 10:
		return &pb.AuthRoleDeleteRequest{Role: role}
	case 11, 12:
		key, end := g.keyRange()
		return &pb.AuthRoleRevokePermissionRequest{Role: role, Key: key, RangeEnd: end}
	case 13:
		if g.chance(10) {
			return &pb.AuthDisableRequest{}
		}
		return &pb.AuthEnableRequest{}
	}
	key, end := g.keyRange()
	if g.model.doubled(role, key, end) {
		return &pb.AuthRoleAddRequest{Name: role}
	}
	return &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: &authpb.Permission{
		PermType: authpb.Permission_Type(g.IntN(3)), Key: key, RangeEnd: end,
	}}
}
