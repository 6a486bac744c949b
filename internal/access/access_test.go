package access

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// model is the same in the most naive way: a range is all keys of a small world that
// lie in it.
type model struct {
	users map[string][]string
	roles map[string]map[string]kvv1.Permission_Kind // By key and end, with a zero byte between.
}

var (
	names = []string{"root", "a", "b", "c"}
	ends  = []string{"", "\x00", "a", "b", "c", "d", "b\x00"}
	keys  = []string{"\x00", "a", "b", "c", "d"}
	world = []string{"\x00", "\x00\x00", "a", "a\x00", "ab", "b", "b\x00", "b\x00\x00", "c", "c\x00", "d", "d\x00", "\xff", "\xff\xff"}
)

// in says whether a key of the world is in a range.
func in(k, key, end string) bool {
	switch end {
	case "":
		return k == key
	case "\x00":
		return k >= key
	}
	return k >= key && k < end
}

// may says whether a user has a kind of permission on all of a range, of which there
// are keys.
func (m *model) may(user, key, end string, kind kvv1.Permission_Kind) bool {
	if slices.Contains(m.users[user], Root) {
		return true
	}
	for _, k := range world {
		if !in(k, key, end) {
			continue
		}
		covered := false
		for _, role := range m.users[user] {
			for permitted, has := range m.roles[role] {
				at := bytes.LastIndexByte([]byte(permitted), '|')
				covered = covered || in(k, permitted[:at], permitted[at+1:]) && (has == kind || has == kvv1.Permission_KIND_READWRITE)
			}
		}
		if !covered {
			return false
		}
	}
	return true
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// change makes a random change, and has the model make it.
func (m *model) change(r *rand.Rand) *kvv1.AuthChange {
	user, role, key, end := pick(r, names), pick(r, names), pick(r, keys), pick(r, ends)
	switch r.IntN(12) {
	case 0:
		if m.users[user] == nil {
			m.users[user] = []string{}
		}
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: user}}}
	case 1:
		if user != Root {
			delete(m.users, user)
		}
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteUser{DeleteUser: &kvv1.DeleteUser{Name: user}}}
	case 2:
		if m.roles[role] == nil {
			m.roles[role] = map[string]kvv1.Permission_Kind{}
		}
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_AddRole{AddRole: &kvv1.AddRole{Name: role}}}
	case 3:
		if m.roles[role] != nil && role != Root {
			delete(m.roles, role)
			for u, roles := range m.users {
				m.users[u] = slices.DeleteFunc(roles, func(r string) bool { return r == role })
			}
		}
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteRole{DeleteRole: &kvv1.DeleteRole{Name: role}}}
	case 4, 5, 6:
		if m.users[user] != nil && (m.roles[role] != nil || role == Root) && !slices.Contains(m.users[user], role) {
			m.users[user] = append(m.users[user], role)
		}
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: user, Role: role}}}
	case 7:
		if m.users[user] != nil && (user != Root || role != Root) {
			m.users[user] = slices.DeleteFunc(m.users[user], func(r string) bool { return r == role })
		}
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_RevokeRole{RevokeRole: &kvv1.RevokeRole{User: user, Role: role}}}
	case 8:
		delete(m.roles[role], key+"|"+end)
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_RevokePermission{RevokePermission: &kvv1.RevokePermission{
			Role: role, Key: []byte(key), RangeEnd: []byte(end),
		}}}
	}
	kind := kvv1.Permission_Kind(1 + r.IntN(3))
	if m.roles[role] != nil && (end == "" || end == "\x00" || key < end) {
		m.roles[role][key+"|"+end] = kind
	}
	return &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantPermission{GrantPermission: &kvv1.GrantPermission{
		Role: role, Permission: &kvv1.Permission{Kind: kind, Key: []byte(key), RangeEnd: []byte(end)},
	}}}
}

func must(t *testing.T, s *State, change *kvv1.AuthChange) *State {
	t.Helper()
	after, err := s.Apply(change)
	if err != nil {
		t.Fatal(err)
	}
	return after
}

var enable = &kvv1.AuthChange{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{TokenKey: []byte("key")}}}

// enabled is a state with the user root, and access control on.
func enabled(t *testing.T) *State {
	t.Helper()
	s := must(t, nil, &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: Root}}})
	s = must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: Root, Role: Root}}})
	return must(t, s, enable)
}

// Random users, roles and ranges permit what they do in a naive model, also after the
// state was written and read.
func TestRightsAreTheModels(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 0))
		s, m := enabled(t), &model{users: map[string][]string{Root: {Root}}, roles: map[string]map[string]kvv1.Permission_Kind{}}
		for step := range 150 {
			change := m.change(r)
			before, written := s, s.Encode()
			s, _ = s.Apply(change)
			if !bytes.Equal(before.Encode(), written) {
				t.Fatalf("seed %d, step %d: %v changed the state before it", seed, step, change)
			}
			if step%10 == 0 {
				s = Load(s.Proto())
			}
			m.compare(t, r, s, fmt.Sprintf("seed %d, step %d, after %v", seed, step, change))
		}
	}
}

func (m *model) compare(t *testing.T, r *rand.Rand, s *State, when string) {
	t.Helper()
	user, key, end := pick(r, names), pick(r, world), pick(r, append(ends, world...))
	if end != "" && end != "\x00" && key >= end || m.users[user] == nil {
		return
	}
	who := caller.Caller{User: user}
	read, write := s.Read(who, []byte(key), []byte(end)) == nil, s.Write(who, []byte(key), []byte(end)) == nil
	wantRead := m.may(user, key, end, kvv1.Permission_KIND_READ)
	wantWrite := m.may(user, key, end, kvv1.Permission_KIND_WRITE)
	if read != wantRead || write != wantWrite {
		t.Fatalf("%s: %s on %q to %q: read %v, write %v, want %v and %v\n%v", when, user, key, end, read, write, wantRead, wantWrite, s.Proto())
	}
}

func reasonOf(err error) string { return refusal.Reason(err).String() }

func TestRootStays(t *testing.T) {
	s := enabled(t)
	for _, change := range []*kvv1.AuthChange{
		{Change: &kvv1.AuthChange_DeleteUser{DeleteUser: &kvv1.DeleteUser{Name: Root}}},
		{Change: &kvv1.AuthChange_RevokeRole{RevokeRole: &kvv1.RevokeRole{User: Root, Role: Root}}},
		{Change: &kvv1.AuthChange_DeleteRole{DeleteRole: &kvv1.DeleteRole{Name: Root}}},
	} {
		if after, err := s.Apply(change); after != s || reasonOf(err) != "ERROR_REASON_ROOT_PROTECTED" {
			t.Errorf("%v: %v", change, err)
		}
	}
	if after, err := (*State)(nil).Apply(enable); after != nil || reasonOf(err) != "ERROR_REASON_ROOT_USER_MISSING" {
		t.Errorf("enabled without root: %v", err)
	}
}

// A token is of one password of one user: another user of that name has others.
func TestTokensEndWithTheirPassword(t *testing.T) {
	s := must(t, enabled(t), &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "a"}}})
	who := caller.Caller{User: "a", By: caller.Password, Generation: s.User("a").GetGeneration()}
	s = must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "b"}}})
	if err := s.Known(who); err != nil {
		t.Errorf("after another user was added: %v", err)
	}
	again := must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteUser{DeleteUser: &kvv1.DeleteUser{Name: "a"}}})
	if err := again.Known(who); reasonOf(err) != "ERROR_REASON_UNAUTHENTICATED" {
		t.Errorf("after the user was deleted: %v", err)
	}
	again = must(t, again, &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "a"}}})
	if err := again.Known(who); reasonOf(err) != "ERROR_REASON_UNAUTHENTICATED" {
		t.Errorf("after the user was added again: %v", err)
	}
	s = must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_SetPassword{SetPassword: &kvv1.SetPassword{Name: "a"}}})
	if err := s.Known(who); reasonOf(err) != "ERROR_REASON_UNAUTHENTICATED" {
		t.Errorf("after the password was changed: %v", err)
	}
}

// However many writes of a batch attach keys to a lease, it is looked at once, and the
// leases of one command have a limit together: meanwhile everybody waits.
func TestABatchLooksAtALeaseOnce(t *testing.T) {
	s := must(t, enabled(t), &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "a"}}})
	s = must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_AddRole{AddRole: &kvv1.AddRole{Name: "a"}}})
	s = must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: "a", Role: "a"}}})
	s = must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantPermission{GrantPermission: &kvv1.GrantPermission{
		Role: "a", Permission: &kvv1.Permission{Kind: kvv1.Permission_KIND_WRITE, Key: []byte("k")},
	}}})
	denied := refused(kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "no")
	looks := 0
	writes := s.Writes(caller.Caller{User: "a"}, func(lease int64) (int, error) {
		if looks++; lease == 1 {
			return 0, denied
		}
		return maxLeaseKeys / 3, nil
	})
	for lease, want := range []string{1: "ERROR_REASON_PERMISSION_DENIED", 2: "", 3: "", 4: "", 5: "ERROR_REASON_TOO_LARGE"} {
		if lease == 0 {
			continue
		}
		for range 100 {
			err := writes.Permit(&kvv1.Write{Write: &kvv1.Write_Put{Put: &kvv1.PutRequest{Key: []byte("k"), Lease: int64(lease)}}})
			if err == nil && want != "" || err != nil && reasonOf(err) != want {
				t.Fatalf("lease %d: %v", lease, err)
			}
		}
	}
	if looks != 5 {
		t.Errorf("it looked %d times", looks)
	}
}
