package store

import (
	"bytes"
	"slices"
	"strings"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// usage counts what a tenant has, each time all of it.
func (m *model) usage(t *kvv1.Tenant, content contents) Usage {
	u := Usage{Next: m.uncounted[t.GetName()]}
	for key, kv := range content {
		if strings.HasPrefix(key, string(t.GetPrefix())) && (u.Next == nil || key < string(u.Next)) {
			u.Keys++
			u.Bytes += int64(len(key) + len(kv.GetValue()))
		}
	}
	return u
}

// overQuota says whether what a transaction has made of the content is more than before,
// and too much for some tenant.
func (m *model) overQuota() bool {
	return slices.ContainsFunc(m.rights.Tenants(), func(t *kvv1.Tenant) bool {
		before, after := m.usage(t, m.at[m.revision]), m.usage(t, m.now)
		over := func(before, after, most int64) bool { return most > 0 && after > before && after > most }
		return over(before.Keys, after.Keys, t.GetMaxKeys()) || over(before.Bytes, after.Bytes, t.GetMaxBytes())
	})
}

// countTenant moves on what is counted.
func (m *model) countTenant(req *kvv1.CountTenant) {
	t := m.rights.Tenant(req.GetName())
	next, counting := m.uncounted[req.GetName()]
	switch until := req.GetUntil(); {
	case t == nil || !counting || !bytes.Equal(next, req.GetNext()):
	case !bytes.HasPrefix(until, t.GetPrefix()):
		delete(m.uncounted, req.GetName())
	case string(until) > string(next):
		m.uncounted[req.GetName()] = until
	}
}

// followTenants begins to count those that are new, or have another prefix.
func (m *model) followTenants(prefixes map[string]string) {
	for name := range m.uncounted {
		if m.rights.Tenant(name) == nil {
			delete(m.uncounted, name)
		}
	}
	for _, t := range m.rights.Tenants() {
		if before, ok := prefixes[t.GetName()]; !ok || before != string(t.GetPrefix()) {
			m.uncounted[t.GetName()] = t.GetPrefix()
		}
	}
}

func (m *model) prefixes() map[string]string {
	all := map[string]string{}
	for _, t := range m.rights.Tenants() {
		all[t.GetName()] = string(t.GetPrefix())
	}
	return all
}

var (
	tenantNames     = []string{"one", "two", "three"}
	serviceAccounts = []string{"system:serviceaccount:n:x", "system:serviceaccount:n:y"}
)

// tenantChange makes one of tenants, of which there are few.
func (g *generator) tenantChange() *kvv1.AuthChange {
	name := tenantNames[g.IntN(len(tenantNames))]
	switch g.IntN(8) {
	case 0:
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteTenant{DeleteTenant: &kvv1.DeleteTenant{Name: name}}}
	case 1, 2, 3, 4:
		count := &kvv1.CountTenant{Name: name, Next: g.model.uncounted[name], Until: g.key()}
		if g.oneIn(8) {
			count.Next = g.key()
		}
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_CountTenant{CountTenant: count}}
	}
	prefixes := []string{"a", "b", "\x01", "\x00", "\xff", "ab", "\xff\xff"}
	t := &kvv1.Tenant{
		Name: name, Prefix: []byte(prefixes[g.IntN(len(prefixes))]), Rights: kvv1.Permission_Kind(1 + g.IntN(3)),
		MaxKeys: g.Int64N(6), MaxBytes: g.Int64N(4) * g.Int64N(500),
	}
	if g.oneIn(2) {
		t.Users = []string{users[g.IntN(len(users))], serviceAccounts[g.IntN(len(serviceAccounts))]}[g.IntN(2):]
	} else {
		t.Namespaces = []string{"n"}
	}
	return &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: t}}}
}

// usageAgrees compares what is counted with the model's, of a store that is not behind.
func (r *randomRun) usageAgrees(d *driver) {
	r.t.Helper()
	used, m := d.s.TenantUsage(), r.history.model
	if len(used) != len(m.rights.Tenants()) {
		r.t.Fatalf("what %d tenants use, of %d", len(used), len(m.rights.Tenants()))
	}
	for _, t := range m.rights.Tenants() {
		got, want := used[t.GetName()], m.usage(t, m.at[m.revision])
		if got.Keys != want.Keys || got.Bytes != want.Bytes || !bytes.Equal(got.Next, want.Next) {
			r.t.Fatalf("the tenant %v uses %+v, want %+v", t, got, want)
		}
	}
}

// countStep counts as a master does.
func (r *randomRun) countStep() {
	r.t.Helper()
	step, err := r.master.s.CountStep(tenantNames[r.IntN(len(tenantNames))])
	if err != nil {
		r.t.Fatal(err)
	}
	if step != nil {
		r.master.do(auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_CountTenant{CountTenant: step}}))
	}
}
