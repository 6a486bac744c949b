package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func newAuthRole(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "role", Short: "Roles, and what they permit",
		Example: `  kvctl auth role add shop
  kvctl auth role grant shop readwrite --prefix shop/
  kvctl auth role list`,
	}, newRoleAdd(a), newRoleGrant(a), newRoleRevoke(a), newRoleDelete(a), newRoleList(a))
}

func newRoleAdd(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "add NAME", Short: "Add a role",
		Example: `  kvctl auth role add shop`,
	}, 1, func(cmd *cobra.Command, args []string) error {
		change := &kvv1.AuthChange{Change: &kvv1.AuthChange_AddRole{AddRole: &kvv1.AddRole{Name: args[0]}}}
		return a.changeAuth(cmd, change, "", "added the role "+args[0])
	})
}

func newRoleDelete(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "delete NAME", Short: "Delete a role, also of those who have it",
		Example: `  kvctl auth role delete shop`,
	}, 1, func(cmd *cobra.Command, args []string) error {
		change := &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteRole{DeleteRole: &kvv1.DeleteRole{Name: args[0]}}}
		return a.changeAuth(cmd, change, "", "deleted the role "+args[0])
	})
}

// permittedKeys are the keys of a permission.
type permittedKeys struct{ prefix, from, all bool }

func (k *permittedKeys) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&k.prefix, "prefix", false, "all keys that begin with KEY")
	cmd.Flags().BoolVar(&k.from, "from", false, "KEY and all keys after it")
	cmd.Flags().BoolVar(&k.all, "all", false, "all keys; there is no KEY then")
}

// of returns a range as permissions have it.
func (k *permittedKeys) of(cmd *cobra.Command, args []string) (key, end []byte, err error) {
	if k.all {
		if len(args) > 0 || k.prefix || k.from {
			return nil, nil, usagef(cmd, "--all goes without a key, --prefix and --from")
		}
		return []byte{0}, []byte{0}, nil
	}
	if len(args) == 0 || args[0] == "" {
		return nil, nil, usagef(cmd, "which key? --all is all of them")
	}
	key = []byte(args[0])
	switch {
	case k.prefix && k.from, (k.prefix || k.from) && len(args) > 1:
		return nil, nil, usagef(cmd, "--prefix, --from and END exclude each other")
	case k.prefix:
		return key, prefixEnd(key), nil
	case k.from:
		return key, []byte{0}, nil
	case len(args) > 1:
		return key, []byte(args[1]), nil
	}
	return key, nil, nil
}

// prefixEnd is the first key after all that begin with a prefix.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{0}
}

var kinds = map[string]kvv1.Permission_Kind{
	"read": kvv1.Permission_KIND_READ, "write": kvv1.Permission_KIND_WRITE, "readwrite": kvv1.Permission_KIND_READWRITE,
}

func newRoleGrant(a *app) *cobra.Command {
	keys := permittedKeys{}
	cmd := &cobra.Command{
		Use: "grant ROLE read|write|readwrite KEY [END]", Short: "Let a role read or write keys",
		Long: `Let a role read, write or both: a key, the keys from KEY up to END, or those of a
flag. It replaces what the role had on exactly these keys.`,
		Example: `  kvctl auth role grant shop readwrite --prefix shop/
  kvctl auth role grant shop read config
  kvctl auth role grant backup read --all`,
		Args:              usageArgs(cobra.RangeArgs(2, 4)),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, ok := kinds[args[1]]
			if !ok {
				return usagef(cmd, "%q is neither read nor write nor readwrite", args[1])
			}
			key, end, err := keys.of(cmd, args[2:])
			if err != nil {
				return err
			}
			grant := &kvv1.GrantPermission{Role: args[0], Permission: &kvv1.Permission{Kind: kind, Key: key, RangeEnd: end}}
			change := &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantPermission{GrantPermission: grant}}
			return a.changeAuth(cmd, change, "", args[0]+" may "+args[1]+" "+showRange(key, end))
		},
	}
	keys.register(cmd)
	return cmd
}

func newRoleRevoke(a *app) *cobra.Command {
	keys := permittedKeys{}
	cmd := &cobra.Command{
		Use: "revoke ROLE KEY [END]", Short: "Take from a role what it may do with keys",
		Long: "Take from a role what it may do with exactly these keys, as they were granted.",
		Example: `  kvctl auth role revoke shop --prefix shop/
  kvctl auth role revoke shop config`,
		Args:              usageArgs(cobra.RangeArgs(1, 3)),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, end, err := keys.of(cmd, args[1:])
			if err != nil {
				return err
			}
			revoke := &kvv1.RevokePermission{Role: args[0], Key: key, RangeEnd: end}
			change := &kvv1.AuthChange{Change: &kvv1.AuthChange_RevokePermission{RevokePermission: revoke}}
			return a.changeAuth(cmd, change, "", args[0]+" has no permission on "+showRange(key, end)+" any more")
		},
	}
	keys.register(cmd)
	return cmd
}

// showRange says for a person which keys a permission is on.
func showRange(key, end []byte) string {
	switch {
	case len(end) == 0:
		return text(key)
	case string(end) == "\x00" && string(key) == "\x00":
		return "all keys"
	case string(end) == "\x00":
		return text(key) + " and all after it"
	case string(end) == string(prefixEnd(key)):
		return text(key) + "*"
	}
	return text(key) + " to " + text(end)
}

// jsonRole is a role in the output.
type jsonRole struct {
	Name        string           `json:"name"`
	Permissions []jsonPermission `json:"permissions"`
}

// jsonPermission has the range as requests have it.
type jsonPermission struct {
	Kind             string `json:"kind"`
	Key              string `json:"key"`
	KeyEncoding      string `json:"key_encoding,omitempty"`
	RangeEnd         string `json:"range_end,omitempty"`
	RangeEndEncoding string `json:"range_end_encoding,omitempty"`
}

func kindName(kind kvv1.Permission_Kind) string {
	for name, k := range kinds {
		if k == kind {
			return name
		}
	}
	return kind.String()
}

func newRoleList(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "list", Short: "Show the roles, and what they permit",
		Long: `Show the roles, a line for each permission. With -o json "range_end" is as in the
API: none is the key alone, a zero byte is to the end of all keys.`,
		Example: `  kvctl auth role list
  kvctl auth role list -o json`,
	}, 0, func(cmd *cobra.Command, _ []string) error {
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			roles, err := c.Roles(ctx, "")
			if err != nil {
				return err
			}
			shown := []jsonRole{}
			t := table{colours: a.colours()}
			t.row("ROLE", "MAY", "KEYS")
			for _, r := range roles {
				role := jsonRole{Name: r.GetName(), Permissions: []jsonPermission{}}
				for _, p := range r.GetPermissions() {
					t.row(r.GetName(), kindName(p.GetKind()), showRange(p.GetKey(), p.GetRangeEnd()))
					shown := jsonPermission{Kind: kindName(p.GetKind())}
					shown.Key, shown.KeyEncoding = encoded(p.GetKey())
					shown.RangeEnd, shown.RangeEndEncoding = encoded(p.GetRangeEnd())
					role.Permissions = append(role.Permissions, shown)
				}
				if len(role.Permissions) == 0 {
					t.row(r.GetName(), "", "")
				}
				shown = append(shown, role)
			}
			if a.json() {
				return a.printJSON(map[string]any{"roles": shown})
			}
			t.writeTo(a.out)
			return nil
		})
	})
}
