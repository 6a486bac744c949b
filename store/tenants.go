package store

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Of each tenant it is counted what its prefix holds: with every version that is
// written, so that it is the same on every pod at the same index. It is stored with the
// state of each flush. What was there before the tenant is counted afterwards, a few
// keys with each CountTenant of the master: a key that is written meanwhile counts if
// the count has come past it.

// Usage is what a tenant's prefix holds: live keys, and the bytes of them and of their
// values.
type Usage struct {
	Keys  int64 `json:"keys"`
	Bytes int64 `json:"bytes"`
	// Next is the first key that was there before the tenant and is not counted yet;
	// nil: all are.
	Next []byte `json:"next,omitempty"`
}

// counts says whether a key of the tenant is counted.
func (u *Usage) counts(key []byte) bool { return u.Next == nil || bytes.Compare(key, u.Next) < 0 }

// usages are those of all tenants. Only the applying goroutine changes them.
type usages struct {
	mu sync.Mutex // guards by, and what it has
	by map[string]*Usage
}

func (u *usages) copied() map[string]Usage {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.by) == 0 {
		return nil
	}
	all := make(map[string]Usage, len(u.by))
	for name, one := range u.by {
		all[name] = *one
	}
	return all
}

func (u *usages) replace(all map[string]Usage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.by = make(map[string]*Usage, len(all))
	for name, one := range all {
		u.by[name] = &one
	}
}

// follow begins to count what is new, and forgets what is no more.
func (u *usages) follow(before, after *access.State) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.by == nil {
		u.by = map[string]*Usage{}
	}
	for _, t := range after.Tenants() {
		if old := before.Tenant(t.GetName()); old == nil || !bytes.Equal(old.GetPrefix(), t.GetPrefix()) {
			u.by[t.GetName()] = &Usage{Next: t.GetPrefix()}
		}
	}
	maps.DeleteFunc(u.by, func(name string, _ *Usage) bool { return after.Tenant(name) == nil })
}

func (u *usages) add(one *Usage, keys, bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	one.Keys += keys
	one.Bytes += bytes
}

// TenantUsage returns what each tenant uses, by name, as of the entry that was applied
// last, or is being applied.
func (s *Store) TenantUsage() map[string]Usage { return s.rights.usages.copied() }

// sizeOf is what a key and its value count. It reads the value only if the index does not
// say how large it is.
func (v *view) sizeOf(key []byte, ver *version) (int64, error) {
	size, known := ver.valueSize()
	if !known {
		if err := v.complete(key, ver); err != nil {
			return 0, err
		}
		size = int64(len(ver.value))
	}
	return int64(len(key)) + size, nil
}

// account counts that ver follows prev, of which no value may be there yet.
func (a *applier) account(key []byte, prev, ver *version) error {
	tenant := a.store.Access().TenantAt(key)
	if tenant == nil {
		return nil
	}
	used := a.store.rights.usages.by[tenant.GetName()]
	if !used.counts(key) {
		return nil
	}
	var keys, bytes int64
	if prev.exists() {
		size, err := a.view.sizeOf(key, prev)
		if err != nil {
			return err
		}
		keys, bytes = -1, -size
	}
	if ver.exists() {
		keys, bytes = keys+1, bytes+int64(len(key)+len(ver.value))
	}
	a.store.rights.usages.add(used, keys, bytes)
	return nil
}

// growth is by how much a tenant's keys and bytes would grow.
type growth struct {
	tenant      *kvv1.Tenant
	keys, bytes int64
}

// over says of what it would be too much: "" of nothing. What shrinks passes, also if
// it was too much already.
func (g *growth) over(used *Usage) (what string, limit, actual int64) {
	keys, bytes := used.Keys+g.keys, used.Bytes+g.bytes
	switch most := g.tenant.GetMaxKeys(); {
	case most > 0 && g.keys > 0 && keys > most:
		return "keys", most, keys
	}
	switch most := g.tenant.GetMaxBytes(); {
	case most > 0 && g.bytes > 0 && bytes > most:
		return "bytes", most, bytes
	}
	return "", 0, 0
}

// putWithin is within for a put that is alone.
func (a *applier) putWithin(req *kvv1.PutRequest) error {
	if !a.store.Access().HasTenants() {
		return nil // Without an allocation.
	}
	return a.within([]*kvv1.PutRequest{req}, nil)
}

// within refuses puts that would take a tenant over its quota, together with the
// deletions of the same transaction. Nothing of it was written yet.
func (a *applier) within(puts []*kvv1.PutRequest, deletes []span) error {
	state := a.store.Access()
	if !state.HasTenants() {
		return nil
	}
	var grown []growth
	for _, put := range puts {
		tenant := state.TenantAt(put.GetKey())
		if tenant.GetMaxKeys() == 0 && tenant.GetMaxBytes() == 0 {
			continue
		}
		at := 0
		for at < len(grown) && grown[at].tenant != tenant {
			at++
		}
		if at == len(grown) {
			grown = append(grown, growth{tenant: tenant})
		}
		if !put.GetIgnoreValue() && !put.GetIgnoreLease() { // Those two are for keys that exist.
			grown[at].keys++
		}
		if !put.GetIgnoreValue() {
			grown[at].bytes += int64(len(put.GetKey()) + len(put.GetValue()))
		}
	}
	for _, most := range grown {
		used := a.store.rights.usages.by[most.tenant.GetName()]
		if what, _, _ := most.over(used); what == "" {
			continue // Not even if all of the keys are new, and nothing is deleted.
		}
		exact, err := a.growth(most.tenant, used, puts, deletes)
		if err != nil {
			return err
		}
		if what, limit, actual := exact.over(used); what != "" {
			return errQuota(most.tenant.GetName(), what, limit, actual)
		}
	}
	return nil
}

// growth looks at each key that is written. A deletion of a transaction was weighed
// before: it does not walk far.
func (a *applier) growth(tenant *kvv1.Tenant, used *Usage, puts []*kvv1.PutRequest, deletes []span) (growth, error) {
	g := growth{tenant: tenant}
	gone := func(key []byte, ver *version) (size int64, err error) {
		size, err = a.view.sizeOf(key, ver)
		g.keys, g.bytes = g.keys-1, g.bytes-size
		return size, err
	}
	for _, put := range puts {
		key := put.GetKey()
		if !bytes.HasPrefix(key, tenant.GetPrefix()) || !used.counts(key) {
			continue
		}
		ver, err := a.previous(a.table.find(key), key)
		size := int64(0)
		if err == nil && ver.exists() {
			size, err = gone(key, &ver)
		}
		if err != nil {
			return g, err
		}
		if !put.GetIgnoreValue() {
			size = int64(len(key) + len(put.GetValue()))
		}
		g.keys, g.bytes = g.keys+1, g.bytes+size
	}
	for i, deleted := range deletes {
		err := a.view.ascend(deleted, a.st.Revision, func(key []byte, ver *version) (bool, error) {
			for _, before := range deletes[:i] {
				if before.contains(key) {
					return true, nil
				}
			}
			if !bytes.HasPrefix(key, tenant.GetPrefix()) || !used.counts(key) {
				return true, nil
			}
			_, err := gone(key, ver)
			return true, err
		})
		if err != nil {
			return g, err
		}
	}
	return g, nil
}

func errQuota(tenant, what string, limit, actual int64) error {
	return &refusal.Error{
		Reason: kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED,
		Message: fmt.Sprintf("the tenant %q would have %d %s, at most %d: delete some, or have its quota raised",
			tenant, actual, what, limit),
		Metadata: map[string]string{
			"tenant": tenant, "what": what, "limit": strconv.FormatInt(limit, 10), "actual": strconv.FormatInt(actual, 10),
		},
	}
}

// The most keys and bytes that one CountTenant looks at: some milliseconds, in which
// nothing else is applied.
var countStepKeys, countStepBytes = 256, 1 << 20

// CountStep returns the next step of counting what was there before a tenant; nil: all
// is counted. The bounds are by this copy and this moment: of what is written until it
// is applied little lies between them. Any goroutine may call it.
func (s *Store) CountStep(tenant string) (step *kvv1.CountTenant, err error) {
	used, ok := s.TenantUsage()[tenant]
	if !ok || used.Next == nil {
		return nil, nil
	}
	room := s.Access().Tenant(tenant)
	if room == nil || !bytes.HasPrefix(used.Next, room.GetPrefix()) {
		return nil, nil // It is being changed: see AccessChanged.
	}
	v, err := s.view(context.Background())
	if err != nil {
		return nil, err
	}
	defer v.close()
	defer s.guard(&err)
	step = &kvv1.CountTenant{Name: tenant, Next: used.Next}
	m, err := v.merge()
	if err != nil {
		return nil, err
	}
	size := 0
	m.seek(used.Next)
	for keys := 0; ; keys++ { // Deleted ones take time as well.
		key := m.least()
		if !bytes.HasPrefix(key, room.GetPrefix()) {
			return step, nil
		}
		if keys == countStepKeys || size >= countStepBytes {
			step.Until = bytes.Clone(key)
			return step, nil
		}
		ver, err := m.version(key, v.revision)
		if err == nil && ver.exists() {
			_, err = v.sizeOf(key, &ver)
		}
		if err != nil {
			return nil, err
		}
		size += len(ver.value) // If it had to be read.
		m.skip(key)
	}
}

// countTenant counts the keys of one step. One that was proposed twice counts once.
func (a *applier) countTenant(req *kvv1.CountTenant) (*kvv1.ChangeAuthResponse, error) {
	tenant := a.store.Access().Tenant(req.GetName())
	used := a.store.rights.usages.by[req.GetName()]
	answer := &kvv1.ChangeAuthResponse{Header: a.header(), AuthRevision: a.store.Access().Revision()}
	if tenant == nil || used.Next == nil || !bytes.Equal(used.Next, req.GetNext()) {
		return answer, nil
	}
	until := req.GetUntil()
	switch {
	case !bytes.HasPrefix(until, tenant.GetPrefix()):
		until = nil // All the rest.
	case bytes.Compare(until, used.Next) <= 0:
		return answer, nil
	}
	counted := Usage{}
	err := a.view.ascend(span{start: used.Next, end: until}, a.st.Revision, func(key []byte, ver *version) (bool, error) {
		if !bytes.HasPrefix(key, tenant.GetPrefix()) {
			return false, nil
		}
		size, err := a.view.sizeOf(key, ver)
		counted.Keys, counted.Bytes = counted.Keys+1, counted.Bytes+size
		return true, err
	})
	if err != nil {
		return nil, err
	}
	a.store.rights.usages.counted(used, counted, until)
	return answer, nil
}

// counted adds what a step has found.
func (u *usages) counted(one *Usage, found Usage, next []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	one.Keys, one.Bytes, one.Next = one.Keys+found.Keys, one.Bytes+found.Bytes, next
}

// checkUsages compares what is stored of usage with who the tenants are.
func checkUsages(allowed *access.State, stored map[string]Usage) error {
	tenants := allowed.Tenants()
	if len(tenants) != len(stored) {
		return corrupt("%d tenants, and what %d use", len(tenants), len(stored))
	}
	for _, t := range tenants {
		used, ok := stored[t.GetName()]
		if !ok || used.Keys < 0 || used.Bytes < used.Keys || used.Next != nil && !bytes.HasPrefix(used.Next, t.GetPrefix()) {
			return corrupt("what the tenant %q uses: %+v", t.GetName(), used)
		}
	}
	return nil
}
