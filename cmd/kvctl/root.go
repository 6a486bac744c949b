package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
)

const rootLong = `kvctl talks to a Baton cluster.

It finds the other pods from any one of --endpoints, follows the master when
that changes, and repeats what is safe to repeat until --timeout is over. A
write is applied exactly once however often it has to be sent.

Which cluster, and what proves who is who, say flags, else environment variables
(--cacert: BATON_CACERT), else the context in use: kvctl config.

Output: on a terminal, tables; elsewhere the same columns separated by tabs and
without a heading, so that cut and awk can read them. A key or value that is not
printable is shown as a quoted string. With -o json a key or value that is
UTF-8 is a string; any other is base64, and "key_encoding" or "value_encoding"
beside it says "base64". Numbers are numbers.

Exit codes:
  0  done
  1  an error on this side, for example a file that cannot be read
  2  a wrong command line
  3  not found: the key or the lease does not exist
  4  refused, nothing changed: for example a revision that was compacted away.
     Also: the comparisons of a txn were false and its else branch ran
  5  unknown: a write may or may not have been applied
  6  unavailable: no pod, or no master, until --timeout; nothing was changed`

const rootExample = `  kvctl put greeting hello
  kvctl get greeting
  kvctl get --prefix users/
  kvctl status --watch
  kvctl --endpoints kv-0.kv:7400,kv-1.kv:7400 members`

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use: "kvctl", Short: "The command line of Baton", Long: rootLong, Example: rootExample,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(cmd *cobra.Command, args []string) error { return unknownVerb(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.checkFlags(cmd)
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd, err} })
	flags := root.PersistentFlags()
	flags.DurationVar(&a.timeout, "timeout", defaultTimeout, "how long to try; for what streams, how long to wait for the next part")
	a.output = choice{value: "table", allowed: []string{"table", "json"}}
	addChoice(root, &a.output, "output", "o", "table or json")
	a.registerConnection(root)
	root.AddCommand(
		newPut(a), newGet(a), newDel(a), newTxn(a), newWatch(a), newLease(a), newCompact(a),
		newStatus(a), newMembers(a), newSnapshot(a), newAuth(a), newTenant(a), newBench(a), newConfig(a), newPKI(a), newVersion(a),
	)
	return root
}

// unknownVerb refuses an unknown verb, and suggests a similar one.
func unknownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef(cmd, "there is no %q; did you mean %s?", args[0], strings.Join(near, " or "))
	}
	return usagef(cmd, "there is no %q", args[0])
}

// group makes a verb that only groups other verbs.
func group(cmd *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	cmd.Args = unknownVerb
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(verbs...)
	return cmd
}

func (a *app) checkFlags(cmd *cobra.Command) error {
	if a.timeout <= 0 {
		return usagef(cmd, "--timeout is %v; it must be more than 0", a.timeout)
	}
	return nil
}

// noFiles keeps the shell from offering file names as values of these flags.
func noFiles(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		err := cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions)
		if err != nil {
			panic("kvctl: completion of --" + flag + ": " + err.Error()) // no such flag
		}
	}
}

const completionTimeout = 500 * time.Millisecond

// completeKeys offers the keys that begin with what was typed.
func (a *app) completeKeys(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) (words []string, err error) {
		page, err := c.Range(ctx, client.Prefix(typed), client.LocalRead(), client.KeysOnly(), client.Limit(100))
		for _, kv := range page.GetKvs() {
			words = append(words, string(kv.GetKey()))
		}
		return words, err
	})
}

// completePods offers the names of the pods.
func (a *app) completePods(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) (words []string, err error) {
		status, err := c.Status(ctx)
		for _, pod := range status.GetPods() {
			words = append(words, pod.GetName())
		}
		return words, err
	})
}

// complete asks the cluster, but not for long: without an answer it completes
// nothing.
func (a *app) complete(cmd *cobra.Command, ask func(context.Context, *client.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	c, err := a.connect(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionTimeout)
	defer cancel()
	words, err := ask(ctx, c)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		cobra.CompDebugln(err.Error(), false)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
