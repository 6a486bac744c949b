package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// jsonTenant is a tenant in the output.
type jsonTenant struct {
	Name           string     `json:"name"`
	Users          []string   `json:"users"`
	Namespaces     []string   `json:"namespaces"`
	Prefix         string     `json:"prefix"`
	PrefixEncoding string     `json:"prefix_encoding,omitempty"`
	Rights         string     `json:"rights"`
	Keys           int64      `json:"keys"`
	Bytes          int64      `json:"bytes"`
	Counting       bool       `json:"counting"`
	Limits         jsonLimits `json:"limits"`
}

// jsonLimits are 0 where there is none.
type jsonLimits struct {
	Keys              int64 `json:"keys"`
	Bytes             int64 `json:"bytes"`
	RequestsPerSecond int64 `json:"requests_per_second"`
	BytesPerSecond    int64 `json:"bytes_per_second"`
	BurstMs           int64 `json:"burst_ms"`
}

// defaultBurstMs is what a burst of 0 means.
const defaultBurstMs = 100

func burstMs(t *kvv1.Tenant) int64 {
	if t.GetBurstMs() == 0 {
		return defaultBurstMs
	}
	return t.GetBurstMs()
}

func toJSONTenant(s *kvv1.TenantStatus) jsonTenant {
	t := s.GetTenant()
	shown := jsonTenant{
		Name: t.GetName(), Users: append([]string{}, t.GetUsers()...), Namespaces: append([]string{}, t.GetNamespaces()...),
		Rights: rightsName(t.GetRights()), Keys: s.GetKeys(), Bytes: s.GetBytes(), Counting: s.GetCounting(),
		Limits: jsonLimits{t.GetMaxKeys(), t.GetMaxBytes(), t.GetRequestsPerSecond(), t.GetBytesPerSecond(), burstMs(t)},
	}
	shown.Prefix, shown.PrefixEncoding = encoded(t.GetPrefix())
	return shown
}

// membersOf names who belongs to a tenant: NAMESPACE/NAME is a ServiceAccount, NAMESPACE/* all
// of a namespace.
func membersOf(t *kvv1.Tenant) (all []string) {
	for _, namespace := range t.GetNamespaces() {
		all = append(all, namespace+"/*")
	}
	for _, user := range t.GetUsers() {
		if account, ok := strings.CutPrefix(user, caller.ServiceAccounts); ok {
			user = strings.Replace(account, ":", "/", 1)
		}
		all = append(all, user)
	}
	return all
}

// of writes how much there is of how much there may be; more: it is still being counted.
func of(n, most int64, counting bool, write func(int64) string) string {
	shown := write(n)
	if counting {
		shown += "+"
	}
	if most > 0 {
		shown += " of " + write(most)
	}
	return shown
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func showRate(t *kvv1.Tenant) string {
	var parts []string
	if n := t.GetRequestsPerSecond(); n > 0 {
		parts = append(parts, decimal(n)+"/s")
	}
	if n := t.GetBytesPerSecond(); n > 0 {
		parts = append(parts, size(n)+"/s")
	}
	return strings.Join(parts, ", ")
}

func newTenantList(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "list", Short: "Show the tenants, and what they use",
		Long: `Show the tenants, with what they use of what they may. A number with a + is still
being counted. NAMESPACE/* are all ServiceAccounts of a namespace.`,
		Example: `  kvctl tenant list
  kvctl tenant list -o json`,
	}, 0, func(cmd *cobra.Command, _ []string) error {
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			found, err := c.Tenants(ctx, "")
			if err != nil {
				return err
			}
			if a.json() {
				shown := []jsonTenant{}
				for _, s := range found {
					shown = append(shown, toJSONTenant(s))
				}
				return a.printJSON(map[string]any{"tenants": shown})
			}
			t := table{colours: a.colours()}
			t.row("TENANT", "PREFIX", "RIGHTS", "KEYS", "BYTES", "RATE", "FOR")
			for _, s := range found {
				one := s.GetTenant()
				t.row(one.GetName(), text(one.GetPrefix()), rightsName(one.GetRights()),
					of(s.GetKeys(), one.GetMaxKeys(), s.GetCounting(), decimal), of(s.GetBytes(), one.GetMaxBytes(), s.GetCounting(), size),
					showRate(one), strings.Join(membersOf(one), ", "))
			}
			t.writeTo(a.out)
			return nil
		})
	})
}

func newTenantShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show [NAME]", Short: "Show one tenant, or the caller's own",
		Long: `Show one tenant. Without a name it is the one that the caller belongs to, which
everybody may see.`,
		Example: `  kvctl tenant show shop
  kvctl tenant show -o json`,
		Args:              usageArgs(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.completeTenants,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				s, err := tenantOf(ctx, c, args)
				if err != nil {
					return err
				}
				if a.json() {
					return a.printJSON(toJSONTenant(s))
				}
				a.showTenant(s)
				return nil
			})
		},
	}
}

func tenantOf(ctx context.Context, c *client.Client, args []string) (*kvv1.TenantStatus, error) {
	if len(args) == 0 {
		return c.OwnTenant(ctx)
	}
	found, err := c.Tenants(ctx, args[0])
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (a *app) showTenant(s *kvv1.TenantStatus) {
	one := s.GetTenant()
	t := table{colours: a.colours()}
	t.row("tenant", one.GetName())
	t.row("prefix", text(one.GetPrefix()))
	t.row("rights", rightsName(one.GetRights()))
	for _, member := range membersOf(one) {
		t.row("for", member)
	}
	t.row("keys", of(s.GetKeys(), one.GetMaxKeys(), s.GetCounting(), decimal))
	t.row("bytes", of(s.GetBytes(), one.GetMaxBytes(), s.GetCounting(), size))
	if rate := showRate(one); rate != "" {
		t.row("rate", rate)
		t.row("burst", (time.Duration(burstMs(one)) * time.Millisecond).String())
	}
	t.writeTo(a.out)
}
