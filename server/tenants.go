package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	"github.com/batondb/baton/internal/sleep"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// tenants returns one tenant, the caller's own, or all, with what they use.
func (c *core) tenants(ctx context.Context, req *kvv1.ListTenantsRequest) (*kvv1.ListTenantsResponse, error) {
	st, err := c.prepareRead(ctx, nil)
	if err != nil {
		return nil, err
	}
	state, who := st.Access(), caller.From(ctx)
	own, name := state.TenantOf(who.User), req.GetName()
	if req.GetOwn() {
		name = own.GetName()
		if own == nil {
			return nil, errNoTenant
		}
	}
	if err := state.Admin(who); err != nil && (name == "" || name != own.GetName()) {
		return nil, err
	}
	found := state.Tenants()
	if name != "" {
		if found = []*kvv1.Tenant{state.Tenant(name)}; found[0] == nil {
			return nil, access.NoTenant(name)
		}
	}
	response := &kvv1.ListTenantsResponse{Header: c.header(st)}
	used := st.TenantUsage()
	for _, t := range found {
		u := used[t.GetName()]
		response.Tenants = append(response.Tenants, &kvv1.TenantStatus{Tenant: t, Keys: u.Keys, Bytes: u.Bytes, Counting: u.Next != nil})
	}
	return response, nil
}

var errNoTenant error = &refusal.Error{
	Reason:  kvv1.ErrorReason_ERROR_REASON_TENANT_NOT_FOUND,
	Message: "the caller belongs to no tenant",
}

// countPatience is how long a change of a tenant waits until what is there is counted:
// from then on its quota holds. The change is done all the same.
const (
	countPatience = time.Second
	countPoll     = 5 * time.Millisecond
)

// awaitCount waits for a change that made a revision of users, roles and tenants: this pod
// may not have applied it yet.
func (c *core) awaitCount(ctx context.Context, name string, revision uint64) {
	ctx, cancel := context.WithTimeout(ctx, countPatience)
	defer cancel()
	for {
		st := c.store.Load()
		if st == nil || st.Access().Revision() >= revision && st.TenantUsage()[name].Next == nil || !sleep.For(ctx, countPoll) {
			return
		}
	}
}

// countTimeout bounds one step of counting, and countPause is between two: others write
// meanwhile. After an error it waits for longer.
const (
	countTimeout = 10 * time.Second
	countPause   = 2 * time.Millisecond
	countRetry   = time.Second
)

// countTenants counts what was there before a tenant, until ctx ends.
func (c *core) countTenants(ctx context.Context, st *store.Store) {
	for {
		changed := st.AccessChanged()
		again := make(<-chan time.Time)
		for _, t := range st.Access().Tenants() {
			if !c.countTenant(ctx, st, t.GetName()) {
				again = time.After(countRetry)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
		}
	}
}

// countTenant counts one tenant to the end.
func (c *core) countTenant(ctx context.Context, st *store.Store, name string) (done bool) {
	for {
		step, err := st.CountStep(name)
		if step == nil && err == nil {
			return true
		}
		if err == nil {
			err = c.countStep(ctx, step)
		}
		if err != nil {
			if ctx.Err() == nil {
				c.options.Logger.Warn("could not count what a tenant has; it is tried again", slog.String("tenant", name), slog.Any("error", err))
			}
			return false
		}
		if !sleep.For(ctx, countPause) {
			return false
		}
	}
}

func (c *core) countStep(ctx context.Context, step *kvv1.CountTenant) error {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	change := &kvv1.AuthChange{Change: &kvv1.AuthChange_CountTenant{CountTenant: step}}
	return c.proposeAsMaster(ctx, &kvv1.Command{Command: &kvv1.Command_Auth{Auth: change}})
}

// overQuota counts a write that was refused for a tenant's quota.
func (c *core) overQuota(name string) {
	state := c.access()
	t := state.Tenant(name)
	if t == nil {
		return
	}
	one := c.rates.of(state, t)
	one.mu.Lock()
	defer one.mu.Unlock()
	one.counts.overQuota++
}

// tenantMetrics show what each tenant uses; there are at most access.MaxTenants.
type tenantMetrics struct{ core *core }

var (
	tenantKeys     = tenantDesc("keys", "Live keys under the tenant's prefix.")
	tenantBytes    = tenantDesc("bytes", "Bytes of the live keys under the tenant's prefix, and of their values.")
	tenantMaxKeys  = tenantDesc("quota_keys", "The most keys that the tenant may have; 0: no limit.")
	tenantMaxBytes = tenantDesc("quota_bytes", "The most bytes that the tenant may have; 0: no limit.")
	tenantRequests = tenantDesc("requests_total", "What the tenant's calls on this pod have cost, in requests; on the master also writes that were forwarded.")
	tenantRefused  = tenantDesc("refused_total", "Calls on this pod that were refused for the tenant's rate or quota.", "why")
)

func tenantDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("baton_tenant_"+name, help, append([]string{"tenant"}, labels...), nil)
}

// Describe implements prometheus.Collector.
func (*tenantMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{tenantKeys, tenantBytes, tenantMaxKeys, tenantMaxBytes, tenantRequests, tenantRefused} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *tenantMetrics) Collect(to chan<- prometheus.Metric) {
	st := m.core.store.Load()
	if st == nil || !st.Access().HasTenants() {
		return
	}
	state, used := st.Access(), st.TenantUsage()
	for _, t := range state.Tenants() {
		name, u := t.GetName(), used[t.GetName()]
		gauge := func(d *prometheus.Desc, n int64) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), name)
		}
		gauge(tenantKeys, u.Keys)
		gauge(tenantBytes, u.Bytes)
		gauge(tenantMaxKeys, t.GetMaxKeys())
		gauge(tenantMaxBytes, t.GetMaxBytes())
		counts := m.core.rates.of(state, t).counted()
		to <- prometheus.MustNewConstMetric(tenantRequests, prometheus.CounterValue, counts.requests, name)
		to <- prometheus.MustNewConstMetric(tenantRefused, prometheus.CounterValue, float64(counts.overRate), name, "rate")
		to <- prometheus.MustNewConstMetric(tenantRefused, prometheus.CounterValue, float64(counts.overQuota), name, "quota")
	}
}

func (o *rate) counted() tenantCounts {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counts
}
