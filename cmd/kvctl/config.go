package main

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/batondb/baton/client"
)

func newConfig(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "config", Short: "Name the clusters that you use",
		Long: `A context is a name for a cluster: its endpoints, and the files that prove who is
who. The contexts are in ~/.config/baton/config.yaml, or where BATON_CONFIG says;
only you can read it. It has no secrets, only where they are.

What a flag says counts before its environment variable (--cacert: BATON_CACERT,
and so on), and that before the context in use: the one of --context or
BATON_CONTEXT, else the current one.`,
		Example: `  kvctl config set-context prod --endpoints kv-client.shop.svc:7400 --cacert ca.crt --cert me.crt --key me.key
  kvctl config use-context prod
  kvctl --context staging get greeting`,
	}, newSetContext(a), newUseContext(a), newGetContexts(a), newDeleteContext(a), newConfigView(a))
}

// changeContexts reads, changes and writes the file.
func (a *app) changeContexts(change func(*contexts) error) error {
	c, err := a.readContexts()
	if err != nil {
		return err
	}
	if err := change(c); err != nil {
		return err
	}
	return a.writeContexts(c)
}

func newSetContext(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "set-context NAME", Short: "Make a context, or change what the flags say",
		Long: `Make a context of the flags that are given: --endpoints, --cacert, --cert, --key,
--tls-server-name, --token-file. Of a context that exists the others stay; an
empty value takes one out. The first context becomes the current one.`,
		Example: `  kvctl config set-context dev --endpoints 127.0.0.1:7400
  kvctl config set-context prod --endpoints kv-client.shop.svc:7400 --cacert ca.crt --token-file token`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if name == "" || strings.ContainsAny(name, " \t\n") {
				return usagef(cmd, "the name of a context is one word, not %q", name)
			}
			err := a.changeContexts(func(c *contexts) error {
				if c.find(name) == nil {
					c.Contexts = append(c.Contexts, namedConnection{Name: name})
				}
				if c.Current == "" {
					c.Current = name
				}
				return a.setContext(cmd, c.find(name))
			})
			if err != nil {
				return err
			}
			a.printf("context %s is in %s\n", name, a.contextsPath())
			return nil
		},
	}
}

// setContext takes over what flags say. Paths become absolute: a context is used from
// anywhere.
func (a *app) setContext(cmd *cobra.Command, c *connection) error {
	if cmd.Flags().Changed("endpoints") {
		c.Endpoints = a.connection.Endpoints
	}
	for _, s := range settings {
		if !cmd.Flags().Changed(s.flag) {
			continue
		}
		value := *s.value(&a.connection)
		if s.file && value != "" {
			var err error
			if value, err = filepath.Abs(value); err != nil {
				return err
			}
		}
		*s.value(c) = value
	}
	checked := *c
	checked.Endpoints = slices.Clone(c.Endpoints)
	return checked.check(cmd)
}

func newUseContext(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "use-context NAME", Short: "Make a context the current one",
		Example:           `  kvctl config use-context prod`,
		Args:              usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeContexts,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.changeContexts(func(c *contexts) error {
				if c.find(args[0]) == nil {
					return usagef(cmd, "there is no context %q; see kvctl config get-contexts", args[0])
				}
				c.Current = args[0]
				return nil
			})
			if err != nil {
				return err
			}
			a.printf("%s is the current context\n", args[0])
			return nil
		},
	}
}

func newDeleteContext(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "delete-context NAME", Short: "Forget a context",
		Long:              "Forget a context. The files that it names stay.",
		Example:           `  kvctl config delete-context staging`,
		Args:              usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeContexts,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeContexts(func(c *contexts) error {
				if c.find(args[0]) == nil {
					return usagef(cmd, "there is no context %q; see kvctl config get-contexts", args[0])
				}
				c.Contexts = slices.DeleteFunc(c.Contexts, func(n namedConnection) bool { return n.Name == args[0] })
				if c.Current == args[0] {
					c.Current = ""
				}
				return nil
			})
		},
	}
}

func newGetContexts(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "get-contexts", Short: "Show the contexts",
		Example: `  kvctl config get-contexts
  kvctl config get-contexts -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.readContexts()
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(c)
			}
			t := table{colours: a.colours()}
			t.row("CURRENT", "NAME", "ENDPOINTS", "TLS")
			for _, n := range c.Contexts {
				current, secure := "", "no"
				if n.Name == c.Current {
					current = "*"
				}
				if o := n.Connection.options(); o.TLS != nil || o.Files != (client.TLSFiles{}) {
					secure = "yes"
				}
				t.row(current, n.Name, strings.Join(n.Connection.Endpoints, ","), secure)
			}
			t.writeTo(a.out)
			return nil
		},
	}
}

func newConfigView(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "view", Short: "Show the configuration file",
		Long:    "Show the configuration file as it is read. It has no secrets.",
		Example: `  kvctl config view`,
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.readContexts()
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(c)
			}
			text, err := yaml.Marshal(c)
			if err != nil {
				return err
			}
			a.printf("%s", text)
			return nil
		},
	}
}

// completeContexts offers the contexts' names.
func (a *app) completeContexts(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := a.readContexts()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, n := range c.Contexts {
		names = append(names, n.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
