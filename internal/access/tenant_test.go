package access

import (
	"fmt"
	"testing"

	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func setTenant(t *kvv1.Tenant) *kvv1.AuthChange {
	if t.GetRights() == 0 {
		t.Rights = kvv1.Permission_KIND_READWRITE
	}
	return &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: t}}}
}

func deleteTenant(name string) *kvv1.AuthChange {
	return &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteTenant{DeleteTenant: &kvv1.DeleteTenant{Name: name}}}
}

func serviceAccountOf(name string) caller.Caller {
	return caller.Caller{User: caller.ServiceAccounts + name, By: caller.ServiceAccount}
}

// A ServiceAccount has the rights of the tenant that names it, else of its namespace's,
// and nobody else has them.
func TestTenantsPermit(t *testing.T) {
	s := must(t, enabled(t), setTenant(&kvv1.Tenant{Name: "shop", Namespaces: []string{"shop"}, Prefix: []byte("shop/")}))
	s = must(t, s, setTenant(&kvv1.Tenant{Name: "web", Users: []string{caller.ServiceAccounts + "shop:web", "alice"}, Prefix: []byte("web/"), Rights: kvv1.Permission_KIND_READ}))
	s = Load(s.Proto())
	for _, test := range []struct {
		who         caller.Caller
		key, end    string
		read, write bool
	}{
		{serviceAccountOf("shop:worker"), "shop/a", "", true, true},
		{serviceAccountOf("shop:worker"), "shop/", "shop0", true, true},
		{serviceAccountOf("shop:worker"), "shop/", "shop1", false, false},
		{serviceAccountOf("shop:worker"), "web/a", "", false, false},
		{serviceAccountOf("shop:web"), "web/", "web0", true, false},
		{serviceAccountOf("shop:web"), "shop/a", "", false, false},
		{serviceAccountOf("shopping:web"), "shop/a", "", false, false},
		{serviceAccountOf("shop"), "shop/a", "", false, false},
		{caller.Caller{User: "shop"}, "shop/a", "", false, false},
		{caller.Caller{User: "alice"}, "web/a", "", true, false},
		{caller.Caller{User: "alice", By: caller.Password, Generation: 2}, "web/a", "", false, false},
		{caller.Caller{}, "shop/a", "", false, false},
	} {
		read, write := s.Read(test.who, []byte(test.key), []byte(test.end)) == nil, s.Write(test.who, []byte(test.key), []byte(test.end)) == nil
		if read != test.read || write != test.write {
			t.Errorf("%v on %q to %q: read %t, write %t", test.who, test.key, test.end, read, write)
		}
	}
	if err := s.Admin(serviceAccountOf("shop:worker")); reasonOf(err) != "ERROR_REASON_PERMISSION_DENIED" {
		t.Errorf("a member administers: %v", err)
	}
	s = must(t, s, deleteTenant("shop"))
	if err := s.Known(serviceAccountOf("shop:worker")); reasonOf(err) != "ERROR_REASON_PERMISSION_DENIED" {
		t.Errorf("after its tenant was deleted: %v", err)
	}
}

// What a user's roles permit and what its tenant permits come together, in whichever
// order they came; a user who is deleted leaves its tenant.
func TestUsersInTenants(t *testing.T) {
	add := &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "a"}}}
	room := setTenant(&kvv1.Tenant{Name: "room", Users: []string{"a"}, Prefix: []byte("b")})
	for _, order := range [][]*kvv1.AuthChange{{add, room}, {room, add}} {
		s := must(t, must(t, enabled(t), order[0]), order[1])
		s = must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_AddRole{AddRole: &kvv1.AddRole{Name: "a"}}})
		s = must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: "a", Role: "a"}}})
		s = must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantPermission{GrantPermission: &kvv1.GrantPermission{
			Role: "a", Permission: &kvv1.Permission{Kind: kvv1.Permission_KIND_WRITE, Key: []byte("a"), RangeEnd: []byte("b")},
		}}})
		who := caller.Caller{User: "a"}
		if err := s.Write(who, []byte("a"), []byte("c")); err != nil {
			t.Errorf("both together: %v", err)
		}
		if err := s.Read(who, []byte("a"), nil); err == nil {
			t.Error("it may read what its role only lets it write")
		}
		without := must(t, s, deleteTenant("room"))
		if err := without.Write(who, []byte("b"), nil); err == nil {
			t.Error("it may write its tenant's keys after that was deleted")
		}
		s = must(t, s, &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteUser{DeleteUser: &kvv1.DeleteUser{Name: "a"}}})
		if s.TenantOf("a") != nil || s.Known(who) == nil {
			t.Error("a user who was deleted is in its tenant all the same")
		}
	}
}

// No key and no caller is two tenants', whatever the order; what is bad is refused, and
// changes nothing.
func TestTenantsConflict(t *testing.T) {
	s := must(t, nil, setTenant(&kvv1.Tenant{Name: "one", Users: []string{"a"}, Namespaces: []string{"n"}, Prefix: []byte("ab")}))
	long := make([]string, maxMembers+1)
	for i := range long {
		long[i] = fmt.Sprint(i)
	}
	for _, test := range []struct {
		name   string
		tenant *kvv1.Tenant
		want   string
	}{
		{"a longer prefix", &kvv1.Tenant{Name: "two", Prefix: []byte("abc")}, "TENANT_CONFLICT"},
		{"a shorter prefix", &kvv1.Tenant{Name: "two", Prefix: []byte("a")}, "TENANT_CONFLICT"},
		{"the same prefix", &kvv1.Tenant{Name: "two", Prefix: []byte("ab")}, "TENANT_CONFLICT"},
		{"a user of both", &kvv1.Tenant{Name: "two", Prefix: []byte("c"), Users: []string{"a"}}, "TENANT_CONFLICT"},
		{"a namespace of both", &kvv1.Tenant{Name: "two", Prefix: []byte("c"), Namespaces: []string{"n"}}, "TENANT_CONFLICT"},
		{"all keys", &kvv1.Tenant{Name: "two"}, "INVALID_REQUEST"},
		{"no name", &kvv1.Tenant{Prefix: []byte("c")}, "INVALID_REQUEST"},
		{"an empty user", &kvv1.Tenant{Name: "two", Prefix: []byte("c"), Users: []string{""}}, "INVALID_REQUEST"},
		{"root", &kvv1.Tenant{Name: "two", Prefix: []byte("c"), Users: []string{Root}}, "INVALID_REQUEST"},
		{"a namespace with a colon", &kvv1.Tenant{Name: "two", Prefix: []byte("c"), Namespaces: []string{"a:b"}}, "INVALID_REQUEST"},
		{"other rights", &kvv1.Tenant{Name: "two", Prefix: []byte("c"), Rights: 7}, "INVALID_REQUEST"},
		{"a quota below 0", &kvv1.Tenant{Name: "two", Prefix: []byte("c"), MaxBytes: -1}, "INVALID_REQUEST"},
		{"a long burst", &kvv1.Tenant{Name: "two", Prefix: []byte("c"), BurstMs: maxBurstMs + 1}, "TOO_LARGE"},
		{"many users", &kvv1.Tenant{Name: "two", Prefix: []byte("c"), Users: long}, "TOO_LARGE"},
	} {
		if after, err := s.Apply(setTenant(test.tenant)); after != s || reasonOf(err) != "ERROR_REASON_"+test.want {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if after, err := s.Apply(deleteTenant("two")); after != s || reasonOf(err) != "ERROR_REASON_TENANT_NOT_FOUND" {
		t.Errorf("one that is not there: %v", err)
	}
	if same := must(t, s, setTenant(&kvv1.Tenant{Name: "one", Users: []string{"a", "a"}, Namespaces: []string{"n"}, Prefix: []byte("ab")})); same != s {
		t.Error("the same again changes something")
	}
	moved := must(t, s, setTenant(&kvv1.Tenant{Name: "one", Prefix: []byte("a")}))
	if moved.TenantAt([]byte("ax")).GetName() != "one" || moved.TenantOf("a") != nil {
		t.Error("with another prefix, and nobody")
	}
}

// There are as many tenants as the metrics have room for, and of each key it is found
// whose it is.
func TestManyTenants(t *testing.T) {
	rooms := map[string]*tenant{}
	for i := range MaxTenants {
		name := fmt.Sprintf("%04d", i)
		rooms[name] = newTenant(&kvv1.Tenant{Name: name, Prefix: []byte(name), Rights: kvv1.Permission_KIND_READ})
	}
	s := empty()
	s.tenants = newTenants(rooms)
	if after, err := s.Apply(setTenant(&kvv1.Tenant{Name: "more", Prefix: []byte("x")})); after != s || reasonOf(err) != "ERROR_REASON_TOO_LARGE" {
		t.Errorf("one more: %v", err)
	}
	must(t, s, setTenant(&kvv1.Tenant{Name: "0000", Prefix: []byte("x")}))
	for i := range MaxTenants {
		name := fmt.Sprintf("%04d", i)
		if got := s.TenantAt([]byte(name + "/key")).GetName(); got != name {
			t.Fatalf("the key of %s is that of %q", name, got)
		}
	}
	for _, key := range []string{"", "0", "000", "9999", "\xff"} {
		if got := s.TenantAt([]byte(key)); got != nil {
			t.Errorf("%q is that of %s", key, got.GetName())
		}
	}
}
