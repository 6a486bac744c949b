package access

import (
	"bytes"
	"maps"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// MaxTenants bounds what each pod counts, and shows in its metrics, by tenant.
	MaxTenants = 4096
	// maxMembers of one tenant: more ServiceAccounts are a namespace.
	maxMembers = 1000
	// maxBurstMs is an hour.
	maxBurstMs = 3_600_000
)

// tenant is a tenant with what it permits.
type tenant struct {
	*kvv1.Tenant
	// member is a caller who belongs to it and is no user beside that.
	member *user
}

func newTenant(record *kvv1.Tenant) *tenant {
	t := &tenant{Tenant: record, member: &user{AuthUser: &kvv1.AuthUser{}}}
	t.permit(t.member)
	return t
}

func (t *tenant) room() span { return span{t.GetPrefix(), prefixEnd(t.GetPrefix())} }

// permit adds what a tenant permits.
func (t *tenant) permit(u *user) {
	if t.GetRights() != kvv1.Permission_KIND_WRITE {
		u.read = append(u.read, t.room())
	}
	if t.GetRights() != kvv1.Permission_KIND_READ {
		u.write = append(u.write, t.room())
	}
}

// prefixEnd is the first key after all that begin with a prefix; nil: there is none.
func prefixEnd(prefix []byte) []byte {
	end := bytes.TrimRight(prefix, "\xff")
	if len(end) == 0 {
		return nil
	}
	end = bytes.Clone(end)
	end[len(end)-1]++
	return end
}

// tenants are all of them. They never change; nil: there is none.
type tenants struct {
	byName, byUser, byNamespace map[string]*tenant
	byPrefix                    []*tenant // In their order.
}

func newTenants(all map[string]*tenant) *tenants {
	if len(all) == 0 {
		return nil
	}
	t := &tenants{byName: all, byUser: map[string]*tenant{}, byNamespace: map[string]*tenant{}}
	for _, one := range all {
		t.byPrefix = append(t.byPrefix, one)
		for _, name := range one.GetUsers() {
			t.byUser[name] = one
		}
		for _, name := range one.GetNamespaces() {
			t.byNamespace[name] = one
		}
	}
	slices.SortFunc(t.byPrefix, func(a, b *tenant) int { return bytes.Compare(a.GetPrefix(), b.GetPrefix()) })
	return t
}

// with returns them with one more, or another one, of a name; nil: without it.
func (t *tenants) with(name string, one *tenant) *tenants {
	all := map[string]*tenant{}
	if t != nil {
		maps.Copy(all, t.byName)
	}
	if delete(all, name); one != nil {
		all[name] = one
	}
	return newTenants(all)
}

func (t *tenants) named(name string) *tenant {
	if t == nil {
		return nil
	}
	return t.byName[name]
}

// of is the tenant that a user belongs to.
func (t *tenants) of(user string) *tenant {
	if t == nil {
		return nil
	}
	if one := t.byUser[user]; one != nil {
		return one
	}
	if rest, ok := strings.CutPrefix(user, caller.ServiceAccounts); ok {
		if namespace, _, whole := strings.Cut(rest, ":"); whole {
			return t.byNamespace[namespace]
		}
	}
	return nil
}

// at is the tenant whose prefix a key has: since no two overlap, no other prefix lies
// between that and the key.
func (t *tenants) at(key []byte) *tenant {
	if t == nil {
		return nil
	}
	after := sort.Search(len(t.byPrefix), func(i int) bool { return bytes.Compare(t.byPrefix[i].GetPrefix(), key) > 0 })
	if after == 0 || !bytes.HasPrefix(key, t.byPrefix[after-1].GetPrefix()) {
		return nil
	}
	return t.byPrefix[after-1]
}

func (t *tenant) record() *kvv1.Tenant {
	if t == nil {
		return nil
	}
	return t.Tenant
}

// HasTenants says whether there is any.
func (s *State) HasTenants() bool { return s != nil && s.tenants != nil }

// Tenant returns a tenant, which must not be changed; nil: there is none.
func (s *State) Tenant(name string) *kvv1.Tenant {
	if s == nil {
		return nil
	}
	return s.tenants.named(name).record()
}

// TenantOf returns the tenant that a user belongs to, whether or not access control is
// on; nil: to none. It must not be changed.
func (s *State) TenantOf(user string) *kvv1.Tenant {
	if s == nil {
		return nil
	}
	return s.tenants.of(user).record()
}

// TenantAt returns the tenant whose key this is; nil: it is nobody's. It must not be
// changed.
func (s *State) TenantAt(key []byte) *kvv1.Tenant {
	if s == nil {
		return nil
	}
	return s.tenants.at(key).record()
}

// Tenants returns all tenants in the order of names. They must not be changed.
func (s *State) Tenants() []*kvv1.Tenant {
	if !s.HasTenants() {
		return nil
	}
	all := make([]*kvv1.Tenant, 0, len(s.tenants.byName))
	for _, name := range slices.Sorted(maps.Keys(s.tenants.byName)) {
		all = append(all, s.tenants.byName[name].Tenant)
	}
	return all
}

// replaceTenants gives users what their tenants permit now.
func (s *State) replaceTenants(after *tenants) {
	before := s.tenants
	s.tenants = after
	for name, u := range s.users {
		if before.of(name) != after.of(name) {
			s.put(u.AuthUser)
		}
	}
}

func (s *State) setTenant(asked *kvv1.Tenant) (bool, error) {
	if err := checkTenant(asked); err != nil {
		return false, err
	}
	record := proto.Clone(asked).(*kvv1.Tenant)
	for _, names := range []*[]string{&record.Users, &record.Namespaces} {
		slices.Sort(*names)
		*names = slices.Compact(*names)
	}
	before := s.Tenant(record.GetName())
	if proto.Equal(before, record) {
		return false, nil
	}
	if before == nil && s.HasTenants() && len(s.tenants.byName) >= MaxTenants {
		return false, tooLarge("tenants", MaxTenants, MaxTenants+1)
	}
	if err := s.conflict(record); err != nil {
		return false, err
	}
	s.revision++
	s.replaceTenants(s.tenants.with(record.GetName(), newTenant(record)))
	return true, nil
}

// conflict refuses what is another tenant's already: of each key and of each caller it
// must be clear whose they are.
func (s *State) conflict(record *kvv1.Tenant) error {
	if !s.HasTenants() {
		return nil
	}
	for _, other := range s.tenants.byPrefix {
		if other.GetName() == record.GetName() {
			continue
		}
		if a, b := record.GetPrefix(), other.GetPrefix(); bytes.HasPrefix(a, b) || bytes.HasPrefix(b, a) {
			return conflicts(other, "the prefix %q overlaps with the prefix %q of the tenant %q", a, b, other.GetName())
		}
	}
	for _, name := range record.GetUsers() {
		if other := s.tenants.byUser[name]; other != nil && other.GetName() != record.GetName() {
			return conflicts(other, "%q belongs to the tenant %q already", name, other.GetName())
		}
	}
	for _, name := range record.GetNamespaces() {
		if other := s.tenants.byNamespace[name]; other != nil && other.GetName() != record.GetName() {
			return conflicts(other, "the namespace %q belongs to the tenant %q already", name, other.GetName())
		}
	}
	return nil
}

func conflicts(other *tenant, format string, args ...any) error {
	e := refused(kvv1.ErrorReason_ERROR_REASON_TENANT_CONFLICT, format, args...)
	e.Metadata = map[string]string{"tenant": other.GetName()}
	return e
}

func (s *State) deleteTenant(name string) (bool, error) {
	if s.Tenant(name) == nil {
		return false, NoTenant(name)
	}
	s.revision++
	s.replaceTenants(s.tenants.with(name, nil))
	return true, nil
}

// leaveTenant takes a user who is deleted out of the tenant that names it.
func (s *State) leaveTenant(name string) {
	one := s.tenants.of(name)
	if one == nil || !slices.Contains(one.GetUsers(), name) {
		return
	}
	record := proto.Clone(one.Tenant).(*kvv1.Tenant)
	record.Users = without(record.GetUsers(), name)
	s.replaceTenants(s.tenants.with(record.GetName(), newTenant(record)))
}

func checkTenant(t *kvv1.Tenant) error {
	if err := checkName(t.GetName()); err != nil {
		return err
	}
	if members := len(t.GetUsers()) + len(t.GetNamespaces()); members > maxMembers {
		return tooLarge("users and namespaces", maxMembers, members)
	}
	for _, name := range slices.Concat(t.GetUsers(), t.GetNamespaces()) {
		if err := checkName(name); err != nil {
			return err
		}
	}
	if slices.Contains(t.GetUsers(), Root) {
		return invalid("users", "the user \"root\" belongs to no tenant")
	}
	if slices.ContainsFunc(t.GetNamespaces(), func(name string) bool { return strings.Contains(name, ":") }) {
		return invalid("namespaces", "a namespace has no colon in it")
	}
	_, known := kvv1.Permission_Kind_name[int32(t.GetRights())]
	switch {
	case len(t.GetPrefix()) == 0:
		return invalid("prefix", "must not be empty: all keys are no tenant's")
	case !known || t.GetRights() == kvv1.Permission_KIND_UNSPECIFIED:
		return invalid("rights", "are neither read nor write nor both")
	}
	return checkLimits(t)
}

func checkLimits(t *kvv1.Tenant) error {
	for _, limit := range []struct {
		field string
		n     int64
	}{
		{"max_keys", t.GetMaxKeys()}, {"max_bytes", t.GetMaxBytes()}, {"burst_ms", t.GetBurstMs()},
		{"requests_per_second", t.GetRequestsPerSecond()}, {"bytes_per_second", t.GetBytesPerSecond()},
	} {
		if limit.n < 0 {
			return invalid(limit.field, "is below 0")
		}
	}
	if t.GetBurstMs() > maxBurstMs {
		return tooLarge("burst_ms", maxBurstMs, int(t.GetBurstMs()))
	}
	return nil
}

// NoTenant refuses what names a tenant that is not there.
func NoTenant(name string) *refusal.Error {
	return refused(kvv1.ErrorReason_ERROR_REASON_TENANT_NOT_FOUND, "there is no tenant %q", name)
}
