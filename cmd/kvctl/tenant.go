package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func newTenant(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "tenant", Short: "Rooms of their own: a prefix, a quota and a rate",
		Long: `A tenant is a prefix of keys, who may use it, how much it may hold, and how many
requests a second its callers may make, so that nobody takes what others need.

Who: all ServiceAccounts of a Kubernetes namespace, some of them, or users. They
need not be added with "kvctl auth user add", unless they log in with a password.
A caller belongs to one tenant at most: to the one that names it, else to its
namespace's. No two prefixes may overlap.

The quota holds for whoever writes under the prefix, and always. Rights and rate
hold while access control is on: kvctl auth enable.`,
		Example: `  kvctl tenant set shop --namespace shop --prefix shop/ --max-bytes 1GiB --max-keys 1000000 --rate 500
  kvctl tenant set shop --max-bytes 2GiB
  kvctl tenant list
  kvctl tenant show shop -o json
  kvctl tenant delete shop`,
	}, newTenantSet(a), newTenantList(a), newTenantShow(a), newTenantDelete(a))
}

// tenantFlags are what there is to set; those that are not given stay as they are.
type tenantFlags struct {
	namespaces, accounts, users []string
	prefix                      string
	rights                      choice
	maxKeys, rate               count
	maxBytes, byteRate          bytesize
	burst                       time.Duration
}

var rightsOf = map[string]kvv1.Permission_Kind{
	"r": kvv1.Permission_KIND_READ, "w": kvv1.Permission_KIND_WRITE, "rw": kvv1.Permission_KIND_READWRITE,
}

func newTenantSet(a *app) *cobra.Command {
	f := &tenantFlags{rights: choice{value: "rw", allowed: []string{"r", "w", "rw"}}}
	cmd := authVerb(&cobra.Command{
		Use: "set NAME", Short: "Add a tenant, or change what is given of one",
		Long: `Add a tenant, which takes --prefix, or change one: what is not given stays as it
is. --namespace, --service-account and --member together say anew who belongs to it.
What there is under the prefix already is counted within moments, or minutes if it
is millions of keys.`,
		Example: `  kvctl tenant set shop --namespace shop --prefix shop/ --max-bytes 1GiB --max-keys 1000000 --rate 500
  kvctl tenant set web --namespace shop --service-account web --prefix web/ --rights rw
  kvctl tenant set reports --member alice --prefix reports/ --rights r --byte-rate 10MiB --burst 5s
  kvctl tenant set shop --rate 1000
  kvctl tenant set shop --rate 0 --max-keys 0   # no limit`,
		ValidArgsFunction: a.completeTenants,
	}, 1, func(cmd *cobra.Command, args []string) error {
		return a.setTenant(cmd, args[0], f)
	})
	flags := cmd.Flags()
	flags.StringSliceVar(&f.namespaces, "namespace", nil, "the Kubernetes namespace: all of its ServiceAccounts, or those of --service-account")
	flags.StringSliceVar(&f.accounts, "service-account", nil, "ServiceAccounts of --namespace")
	flags.StringSliceVar(&f.users, "member", nil, "users, by the names that \"kvctl auth\" knows them by")
	flags.StringVar(&f.prefix, "prefix", "", "its keys: all that begin so")
	addChoice(cmd, &f.rights, "rights", "", "what its callers may do with its keys: r, w or rw")
	flags.Var(&f.maxKeys, "max-keys", "the most keys; 0: no limit")
	flags.Var(&f.maxBytes, "max-bytes", "the most bytes of keys and values, for example 1GiB; 0: no limit")
	flags.Var(&f.rate, "rate", "the most requests a second; 0: no limit")
	flags.Var(&f.byteRate, "byte-rate", "the most bytes a second, for example 10MiB; 0: no limit")
	flags.DurationVar(&f.burst, "burst", 0, "how much of the rate may be used at once after a pause (100ms, and at least 10 requests)")
	noFiles(cmd, "namespace", "service-account", "member", "prefix", "max-keys", "max-bytes", "rate", "byte-rate", "burst")
	return cmd
}

// setTenant changes what is given of what there is.
func (a *app) setTenant(cmd *cobra.Command, name string, f *tenantFlags) error {
	if len(f.accounts) > 0 && len(f.namespaces) != 1 {
		return usagef(cmd, "--service-account goes with one --namespace")
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		tenant := &kvv1.Tenant{Name: name}
		switch found, err := c.Tenants(ctx, name); {
		case errors.Is(err, client.ErrTenantNotFound):
			if !cmd.Flags().Changed("prefix") {
				return usagef(cmd, "there is no tenant %q; a new one takes --prefix", name)
			}
			tenant.Rights = rightsOf[f.rights.value]
		case err != nil:
			return err
		default:
			tenant = proto.Clone(found[0].GetTenant()).(*kvv1.Tenant)
		}
		f.apply(cmd, tenant)
		change := &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: tenant}}}
		changed, err := c.ChangeAuth(ctx, change, "")
		if err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(map[string]uint64{"auth_revision": changed.GetAuthRevision()})
		}
		a.printf("%s\n", describe(tenant))
		if status, err := c.AuthStatus(ctx); err == nil && !status.GetEnabled() {
			a.printf("access control is off: until it is on, only the quota holds (kvctl auth enable)\n")
		}
		return nil
	})
}

func (f *tenantFlags) apply(cmd *cobra.Command, t *kvv1.Tenant) {
	given := cmd.Flags().Changed
	if given("namespace") || given("service-account") || given("member") {
		t.Users, t.Namespaces = f.users, f.namespaces
		if len(f.accounts) > 0 {
			t.Namespaces = nil
			for _, account := range f.accounts {
				t.Users = append(t.Users, caller.ServiceAccountName(f.namespaces[0], account))
			}
		}
	}
	if given("prefix") {
		t.Prefix = []byte(f.prefix)
	}
	if given("rights") {
		t.Rights = rightsOf[f.rights.value]
	}
	for name, set := range map[string]func(){
		"max-keys":  func() { t.MaxKeys = int64(f.maxKeys) },
		"max-bytes": func() { t.MaxBytes = int64(f.maxBytes) },
		"rate":      func() { t.RequestsPerSecond = int64(f.rate) },
		"byte-rate": func() { t.BytesPerSecond = int64(f.byteRate) },
		"burst":     func() { t.BurstMs = f.burst.Milliseconds() },
	} {
		if given(name) {
			set()
		}
	}
}

// describe says for a person what a tenant is.
func describe(t *kvv1.Tenant) string {
	who := strings.Join(membersOf(t), ", ")
	if who == "" {
		who = "nobody yet"
	}
	limits := []string{}
	for _, limit := range []struct {
		n    int64
		text string
	}{
		{t.GetMaxKeys(), plural(t.GetMaxKeys(), "key")},
		{t.GetMaxBytes(), size(t.GetMaxBytes())},
		{t.GetRequestsPerSecond(), plural(t.GetRequestsPerSecond(), "request") + " a second"},
		{t.GetBytesPerSecond(), size(t.GetBytesPerSecond()) + " a second"},
	} {
		if limit.n > 0 {
			limits = append(limits, limit.text)
		}
	}
	bound := "without limits"
	if len(limits) > 0 {
		bound = "at most " + strings.Join(limits, ", ")
	}
	return fmt.Sprintf("%s: %s* for %s (%s), %s", t.GetName(), text(t.GetPrefix()), who, rightsName(t.GetRights()), bound)
}

func rightsName(kind kvv1.Permission_Kind) string {
	for name, k := range rightsOf {
		if k == kind {
			return name
		}
	}
	return kind.String()
}

func newTenantDelete(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "delete NAME", Short: "Delete a tenant; its keys stay",
		Long: `Delete a tenant: its callers lose their rights, its prefix its limits. The keys
stay; delete them with "kvctl del --prefix".`,
		Example:           `  kvctl tenant delete shop`,
		ValidArgsFunction: a.completeTenants,
	}, 1, func(cmd *cobra.Command, args []string) error {
		change := &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteTenant{DeleteTenant: &kvv1.DeleteTenant{Name: args[0]}}}
		return a.changeAuth(cmd, change, "", "deleted the tenant "+args[0]+"; its keys are still there")
	})
}

// completeTenants offers the names of the tenants.
func (a *app) completeTenants(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) (words []string, err error) {
		found, err := c.Tenants(ctx, "")
		for _, t := range found {
			words = append(words, t.GetTenant().GetName())
		}
		return words, err
	})
}

// count is a flag with a number that is not below 0.
type count int64

func (n *count) String() string { return strconv.FormatInt(int64(*n), 10) }
func (n *count) Type() string   { return "int" }

func (n *count) Set(value string) error {
	parsed, err := strconv.ParseUint(value, 10, 63)
	if err != nil {
		return errors.New("it must be a whole number, 0 or more")
	}
	*n = count(parsed)
	return nil
}

// bytesize is a flag with a number of bytes.
type bytesize int64

func (n *bytesize) String() string { return strconv.FormatInt(int64(*n), 10) }
func (n *bytesize) Type() string   { return "bytes" }

var byteUnits = map[string]float64{
	"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
}

func (n *bytesize) Set(value string) error {
	number := strings.TrimRight(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit, known := byteUnits[strings.ToUpper(strings.TrimSpace(value[len(number):]))]
	parsed, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || !(parsed >= 0) || parsed*unit >= math.MaxInt64 {
		return errors.New("it must be a number of bytes, for example 500MiB")
	}
	*n = bytesize(parsed * unit)
	return nil
}
