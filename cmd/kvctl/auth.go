package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func newAuth(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "auth", Short: "Say who may do what",
		Long: `Users have roles, roles have permissions on keys, and the role root may do
everything. It is off until it is enabled, for which a user root with the role
root is needed. The users and roles are those of etcdctl as well.

Log in with --user and --password, or with BATON_USER and BATON_PASSWORD. Without
a password kvctl asks for it on the terminal. A new password is asked for, too,
or is the first line of the input.`,
		Example: `  kvctl auth user add root
  kvctl auth user grant root root
  kvctl auth enable
  export BATON_USER=root
  kvctl auth role add shop
  kvctl auth role grant shop readwrite --prefix shop/
  kvctl auth user add alice
  kvctl auth user grant alice shop`,
	}, newAuthEnable(a), newAuthDisable(a), newAuthStatus(a), newAuthLogin(a), newAuthUser(a), newAuthRole(a))
}

// changeAuth makes a change, and says what it did.
func (a *app) changeAuth(cmd *cobra.Command, change *kvv1.AuthChange, password, did string) error {
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		changed, err := c.ChangeAuth(ctx, change, password)
		if err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(map[string]uint64{"auth_revision": changed.GetAuthRevision()})
		}
		a.printf("%s\n", did)
		return nil
	})
}

// authVerb is a verb with so many arguments that makes one change.
func authVerb(cmd *cobra.Command, count int, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	cmd.Args = usageArgs(cobra.ExactArgs(count))
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	cmd.RunE = run
	return cmd
}

func newAuthEnable(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "enable", Short: "Turn access control on",
		Long:    "Turn access control on: from then on every call but a login needs a user.",
		Example: `  kvctl auth enable`,
	}, 0, func(cmd *cobra.Command, _ []string) error {
		return a.changeAuth(cmd, &kvv1.AuthChange{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{}}}, "", "access control is on")
	})
}

func newAuthDisable(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "disable", Short: "Turn access control off",
		Long:    "Turn access control off. Users and roles stay; tokens end.",
		Example: `  kvctl --user root auth disable`,
	}, 0, func(cmd *cobra.Command, _ []string) error {
		return a.changeAuth(cmd, &kvv1.AuthChange{Change: &kvv1.AuthChange_Disable{Disable: &kvv1.DisableAuth{}}}, "", "access control is off")
	})
}

func newAuthStatus(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "status", Short: "Say whether access control is on",
		Example: `  kvctl auth status
  kvctl auth status -o json`,
	}, 0, func(cmd *cobra.Command, _ []string) error {
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			status, err := c.AuthStatus(ctx)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]any{"enabled": status.GetEnabled(), "auth_revision": status.GetAuthRevision()})
			}
			word := "off"
			if status.GetEnabled() {
				word = "on"
			}
			a.printf("access control is %s\n", word)
			return nil
		})
	})
}

func newAuthLogin(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "login", Short: "Get a token for the password of --user",
		Long: `Get a token for the password of --user, and print it. Other programs send it as
the metadata "token"; in a file it is for --token-file. kvctl itself needs none:
it logs in whenever it has --user.`,
		Example: `  kvctl --user alice auth login > token`,
	}, 0, func(cmd *cobra.Command, _ []string) error {
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			if a.connection.User == "" {
				return usagef(cmd, "who logs in? Give --user")
			}
			token, ttl, err := c.Login(ctx, a.connection.User, a.connection.password)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]any{"token": token, "ttl_seconds": int64(ttl / time.Second)})
			}
			a.printf("%s\n", token)
			return nil
		})
	})
}

func newAuthUser(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "user", Short: "Users, and the roles that they have",
		Example: `  kvctl auth user add alice
  kvctl auth user grant alice shop
  kvctl auth user list`,
	}, newUserAdd(a), newUserPassword(a), newUserDelete(a), newUserGrant(a), newUserRevoke(a), newUserList(a))
}

func newUserAdd(a *app) *cobra.Command {
	none := false
	cmd := authVerb(&cobra.Command{
		Use: "add NAME", Short: "Add a user",
		Long: `Add a user, with a password that is asked for or is the first line of the input.
With --no-password the user proves who it is by a certificate or by a token of
Kubernetes: its name is then that of the certificate, or
system:serviceaccount:NAMESPACE:NAME.`,
		Example: `  kvctl auth user add alice
  kvctl auth user add alice < password
  kvctl auth user add --no-password system:serviceaccount:shop:web`,
	}, 1, func(cmd *cobra.Command, args []string) error {
		password := ""
		if !none {
			var err error
			if password, err = a.newPassword(cmd, args[0]); err != nil {
				return err
			}
		}
		add := &kvv1.AddUser{Name: args[0], NoPassword: none}
		return a.changeAuth(cmd, &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: add}}, password, "added the user "+args[0])
	})
	cmd.Flags().BoolVar(&none, "no-password", false, "the user has none, and proves in another way who it is")
	return cmd
}

func newUserPassword(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "passwd NAME", Short: "Give a user another password",
		Long: `Give a user another password, which is asked for or is the first line of the
input. The user's tokens end.`,
		Example: `  kvctl auth user passwd alice`,
	}, 1, func(cmd *cobra.Command, args []string) error {
		password, err := a.newPassword(cmd, args[0])
		if err != nil {
			return err
		}
		set := &kvv1.SetPassword{Name: args[0]}
		return a.changeAuth(cmd, &kvv1.AuthChange{Change: &kvv1.AuthChange_SetPassword{SetPassword: set}}, password, "changed the password of "+args[0])
	})
}

func newUserDelete(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "delete NAME", Short: "Delete a user",
		Example: `  kvctl auth user delete alice`,
	}, 1, func(cmd *cobra.Command, args []string) error {
		change := &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteUser{DeleteUser: &kvv1.DeleteUser{Name: args[0]}}}
		return a.changeAuth(cmd, change, "", "deleted the user "+args[0])
	})
}

func newUserGrant(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "grant USER ROLE", Short: "Give a user a role",
		Example: `  kvctl auth user grant alice shop`,
	}, 2, func(cmd *cobra.Command, args []string) error {
		change := &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: args[0], Role: args[1]}}}
		return a.changeAuth(cmd, change, "", args[0]+" has the role "+args[1])
	})
}

func newUserRevoke(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "revoke USER ROLE", Short: "Take a role from a user",
		Example: `  kvctl auth user revoke alice shop`,
	}, 2, func(cmd *cobra.Command, args []string) error {
		change := &kvv1.AuthChange{Change: &kvv1.AuthChange_RevokeRole{RevokeRole: &kvv1.RevokeRole{User: args[0], Role: args[1]}}}
		return a.changeAuth(cmd, change, "", args[0]+" no longer has the role "+args[1])
	})
}

// jsonUser is a user in the output.
type jsonUser struct {
	Name       string   `json:"name"`
	Roles      []string `json:"roles"`
	NoPassword bool     `json:"no_password,omitempty"`
}

func newUserList(a *app) *cobra.Command {
	return authVerb(&cobra.Command{
		Use: "list", Short: "Show the users",
		Example: `  kvctl auth user list
  kvctl auth user list -o json`,
	}, 0, func(cmd *cobra.Command, _ []string) error {
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			users, err := c.Users(ctx, "")
			if err != nil {
				return err
			}
			shown := []jsonUser{}
			t := table{colours: a.colours()}
			t.row("USER", "ROLES", "PASSWORD")
			for _, u := range users {
				password := "yes"
				if u.GetNoPassword() {
					password = "no"
				}
				t.row(u.GetName(), strings.Join(u.GetRoles(), ","), password)
				shown = append(shown, jsonUser{u.GetName(), append([]string{}, u.GetRoles()...), u.GetNoPassword()})
			}
			if a.json() {
				return a.printJSON(map[string]any{"users": shown})
			}
			t.writeTo(a.out)
			return nil
		})
	})
}
