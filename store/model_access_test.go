package store

import (
	"bytes"
	"context"
	"testing"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// asPod is for what tests read while access control may be on.
var asPod = caller.With(context.Background(), caller.Caller{By: caller.Pod})

// claim is a right that something needs. Those of the model are gathered, all of them,
// before any is looked at.
type claim struct {
	key, end []byte
	write    bool
}

// mayDo says why a caller may not do something; 0: it may. Single ranges are as in
// package access, which has a model of its own.
func (m *model) mayDo(who caller.Caller, claims []claim) kvv1.ErrorReason {
	for _, c := range claims {
		check := m.rights.Read
		if c.write {
			check = m.rights.Write
		}
		if err := check(who, c.key, c.end); err != nil {
			return refusal.Reason(err)
		}
	}
	return 0
}

func (m *model) claims(command *kvv1.Command) (all []claim) {
	for _, r := range command.GetIdentity().GetReads() {
		all = append(all, claim{r.Key, r.RangeEnd, false})
	}
	switch c := command.GetCommand().(type) {
	case *kvv1.Command_Put:
		return append(all, m.ofOp(&kvv1.Op{Op: &kvv1.Op_Put{Put: c.Put}})...)
	case *kvv1.Command_Delete:
		return append(all, m.ofOp(&kvv1.Op{Op: &kvv1.Op_Delete{Delete: c.Delete}})...)
	case *kvv1.Command_Txn:
		return append(all, m.ofOp(&kvv1.Op{Op: &kvv1.Op_Txn{Txn: c.Txn}})...)
	case *kvv1.Command_Revoke:
		return append(all, m.ofLease(c.Revoke.GetId())...)
	}
	return all
}

func (m *model) ofLease(id int64) (all []claim) {
	if m.leases[id] == 0 {
		return nil
	}
	for _, key := range m.attached(id) {
		all = append(all, claim{[]byte(key), nil, true})
	}
	return all
}

func (m *model) ofOp(op *kvv1.Op) (all []claim) {
	switch o := op.GetOp().(type) {
	case *kvv1.Op_Range:
		key, end := o.Range.GetKey(), o.Range.GetRangeEnd()
		if len(end) == 0 || string(end) == "\x00" || bytes.Compare(key, end) < 0 {
			all = append(all, claim{key, end, false})
		}
	case *kvv1.Op_Put:
		all = append(all, claim{o.Put.GetKey(), nil, true})
		if o.Put.GetLease() != 0 {
			all = append(all, m.ofLease(o.Put.GetLease())...)
		}
		if o.Put.GetPrevKv() {
			all = append(all, claim{o.Put.GetKey(), nil, false})
		}
	case *kvv1.Op_Delete:
		all = append(all, claim{o.Delete.GetKey(), o.Delete.GetRangeEnd(), true})
		if o.Delete.GetPrevKv() {
			all = append(all, claim{o.Delete.GetKey(), o.Delete.GetRangeEnd(), false})
		}
	case *kvv1.Op_Txn:
		for _, c := range o.Txn.GetCompare() {
			all = append(all, claim{c.GetKey(), c.GetRangeEnd(), false})
		}
		for _, ops := range [][]*kvv1.Op{o.Txn.GetSuccess(), o.Txn.GetFailure()} {
			for _, op := range ops {
				all = append(all, m.ofOp(op)...)
			}
		}
	}
	return all
}

// permitted runs what the caller may do.
func (m *model) permitted(command *kvv1.Command) *kvv1.Result {
	if m.rights.Enabled() {
		if reason := m.mayDo(m.caller, m.claims(command)); reason != 0 {
			return refused(reason)
		}
		switch command.GetCommand().(type) {
		case *kvv1.Command_Auth, *kvv1.Command_Compact, nil:
			if err := m.rights.Admin(m.caller); err != nil {
				return refused(refusal.Reason(err))
			}
		}
	}
	return m.run(command)
}

// permittedWrite runs a write of a batch that the caller may do.
func (m *model) permittedWrite(command *kvv1.Command) *kvv1.Result {
	if reason := m.mayDo(m.caller, m.claims(command)); m.rights.Enabled() && reason != 0 {
		return refused(reason)
	}
	return m.run(command)
}

func (m *model) changeAuth(change *kvv1.AuthChange) *kvv1.Result {
	if count := change.GetCountTenant(); count != nil {
		m.countTenant(count)
		return &kvv1.Result{Result: &kvv1.Result_Auth{Auth: &kvv1.ChangeAuthResponse{Header: m.header(), AuthRevision: m.rights.Revision()}}}
	}
	before, prefixes := m.rights.Enabled(), m.prefixes()
	after, err := m.rights.Apply(change)
	if err != nil {
		return refused(refusal.Reason(err))
	}
	if m.rights = after; m.rights.Enabled() != before {
		m.floor = m.revision
	}
	m.followTenants(prefixes)
	return &kvv1.Result{Result: &kvv1.Result_Auth{Auth: &kvv1.ChangeAuthResponse{Header: m.header(), AuthRevision: m.rights.Revision()}}}
}

var users = []string{access.Root, "a", "b"}

// identity is mostly a user who exists.
func (g *generator) identity() *kvv1.Identity {
	user := users[g.IntN(len(users))]
	if g.oneIn(4) {
		user = serviceAccounts[g.IntN(len(serviceAccounts))]
	}
	switch n := g.IntN(20); {
	case n == 0:
		return nil
	case n < 4:
		return &kvv1.Identity{Pod: true}
	case n == 4:
		return &kvv1.Identity{User: user, Generation: g.Uint64N(10)}
	case n < 8:
		return &kvv1.Identity{User: user, Generation: g.model.rights.User(user).GetGeneration()}
	case n == 8:
		return &kvv1.Identity{User: user, Reads: []*kvv1.KeyRange{{Key: g.key(), RangeEnd: g.rangeEnd(nil)}}}
	}
	return &kvv1.Identity{User: user}
}

// authChange makes one of users and roles, of which there are few.
func (g *generator) authChange() *kvv1.AuthChange {
	user, role := users[g.IntN(len(users))], users[g.IntN(len(users))]
	if g.oneIn(2) {
		user, role = access.Root, access.Root
	}
	key := g.key()
	switch g.IntN(13) {
	case 0, 1:
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: user, PasswordHash: []byte("hash")}}}
	case 2, 3, 4:
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: user, Role: role}}}
	case 5:
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_AddRole{AddRole: &kvv1.AddRole{Name: role}}}
	case 6:
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteUser{DeleteUser: &kvv1.DeleteUser{Name: user}}}
	case 7:
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_RevokeRole{RevokeRole: &kvv1.RevokeRole{User: user, Role: role}}}
	case 8:
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_SetPassword{SetPassword: &kvv1.SetPassword{Name: user}}}
	case 9:
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteRole{DeleteRole: &kvv1.DeleteRole{Name: role}}}
	case 10:
		if g.oneIn(4) {
			return &kvv1.AuthChange{Change: &kvv1.AuthChange_Disable{Disable: &kvv1.DisableAuth{}}}
		}
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{TokenKey: []byte("key")}}}
	}
	return &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantPermission{GrantPermission: &kvv1.GrantPermission{
		Role:       role,
		Permission: &kvv1.Permission{Kind: kvv1.Permission_Kind(1 + g.IntN(3)), Key: key, RangeEnd: g.rangeEnd(key)},
	}}}
}

// owned gives a command its caller, or makes it a change of rights.
func (g *generator) owned(command *kvv1.Command) *kvv1.Command {
	if g.oneIn(12) {
		command = &kvv1.Command{Command: &kvv1.Command_Auth{Auth: g.tenantChange()}}
	} else if g.oneIn(6) {
		command = &kvv1.Command{Command: &kvv1.Command_Auth{Auth: g.authChange()}}
	}
	command.Identity = g.identity()
	if _, change := command.GetCommand().(*kvv1.Command_Auth); change && g.oneIn(2) {
		command.Identity = &kvv1.Identity{Pod: true}
	}
	return command
}

// TestRandomRights is TestRandom with users, roles and commands of theirs.
func TestRandomRights(t *testing.T) {
	seeds(t, 12, nil, func(t *testing.T, seed uint64) { random(t, seed, true) })
}
