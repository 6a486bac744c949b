package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
)

func newLease(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "lease", Short: "Give keys an end",
		Long: `A lease ends when it is not kept alive for its time to live; its keys are
deleted with it. Put a key on a lease with kvctl put --lease.`,
		Example: `  id=$(kvctl lease grant 30)
  kvctl put workers/7 alive --lease "$id"
  kvctl lease keep-alive "$id"
  kvctl lease list`,
	}, newLeaseGrant(a), newLeaseRevoke(a), newLeaseKeepAlive(a), newLeaseTTL(a), newLeaseList(a))
}

func newLeaseGrant(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "grant TTL", Short: "Make a lease, and print its id",
		Long: "Make a lease that lives for TTL, in seconds or like 5m, from its last keep-alive on.\nThe output is its id.",
		Example: `  kvctl lease grant 30
  kvctl lease grant 12h -o json`,
		Args:              usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			ttl, err := parseTTL(args[0])
			if err != nil {
				return &usageError{cmd, err}
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				id, err := c.Grant(ctx, ttl)
				if err != nil {
					return err
				}
				if a.json() {
					return a.printJSON(map[string]int64{"id": id, "ttl_seconds": int64((ttl + time.Second - 1) / time.Second)})
				}
				a.printf("%d\n", id)
				return nil
			})
		},
	}
}

func parseTTL(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if seconds, numberErr := strconv.ParseInt(s, 10, 32); numberErr == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("%q is no time to live: give seconds, or a duration like 5m, of at least 1s", s)
	}
	return d, nil
}

// leaseVerb is a verb about one lease.
func leaseVerb(a *app, cmd *cobra.Command, run func(cmd *cobra.Command, id int64) error) *cobra.Command {
	cmd.Args = usageArgs(cobra.ExactArgs(1))
	cmd.ValidArgsFunction = a.completeLeases
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || id <= 0 {
			return usagef(cmd, "%q is no lease id", args[0])
		}
		return run(cmd, id)
	}
	return cmd
}

func (a *app) completeLeases(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) (words []string, err error) {
		response, err := c.ListLeases(ctx)
		for _, l := range response.GetLeases() {
			words = append(words, strconv.FormatInt(l.GetId(), 10))
		}
		return words, err
	})
}

func newLeaseRevoke(a *app) *cobra.Command {
	return leaseVerb(a, &cobra.Command{
		Use: "revoke ID", Short: "End a lease and delete its keys",
		Example: `  kvctl lease revoke 7587
  kvctl lease revoke 7587 -o json`,
	}, func(cmd *cobra.Command, id int64) error {
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			response, err := c.Revoke(ctx, id)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]int64{"id": id, "deleted": response.GetDeleted(), "revision": response.GetHeader().GetRevision()})
			}
			a.printf("deleted %s\n", plural(response.GetDeleted(), "key"))
			return nil
		})
	})
}

func newLeaseKeepAlive(a *app) *cobra.Command {
	return leaseVerb(a, &cobra.Command{
		Use: "keep-alive ID", Short: "Keep a lease alive until stopped",
		Long: `Keep a lease alive until this command is stopped, even if the master changes.
The exit code is 3 when the lease ended before that.`,
		Example: `  kvctl lease keep-alive 7587
  kvctl lease keep-alive "$id" &`,
	}, func(cmd *cobra.Command, id int64) error {
		c, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		ttl, err := a.timeToLive(cmd, c, id)
		if err != nil {
			return err
		}
		held, err := c.KeepAlive(cmd.Context(), id)
		if err != nil {
			return err
		}
		a.printf("keeping lease %d alive, %v each time\n", id, time.Duration(ttl)*time.Second)
		if err := a.flush(); err != nil {
			return err
		}
		<-held.Done()
		if cmd.Context().Err() != nil {
			return nil // stopped
		}
		return fmt.Errorf("lease %d ended: %w", id, context.Cause(held))
	})
}

// timeToLive finds out within --timeout whether the lease exists.
func (a *app) timeToLive(cmd *cobra.Command, c *client.Client, id int64) (int64, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	response, err := c.TimeToLive(ctx, id, false)
	return response.GetGrantedTtlSeconds(), err
}

func newLeaseTTL(a *app) *cobra.Command {
	var keys bool
	cmd := leaseVerb(a, &cobra.Command{
		Use: "ttl ID", Short: "Tell how long a lease has",
		Example: `  kvctl lease ttl 7587
  kvctl lease ttl 7587 --keys -o json`,
	}, func(cmd *cobra.Command, id int64) error {
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			response, err := c.TimeToLive(ctx, id, keys)
			if err != nil {
				return err
			}
			if a.json() {
				answer := map[string]any{"id": id, "granted_ttl_seconds": response.GetGrantedTtlSeconds(), "remaining_seconds": response.GetRemainingSeconds()}
				if keys {
					answer["keys"] = jsonKeys(response.GetKeys())
				}
				return a.printJSON(answer)
			}
			a.printf("%d of %d seconds\n", response.GetRemainingSeconds(), response.GetGrantedTtlSeconds())
			for _, key := range response.GetKeys() {
				a.printf("%s\n", text(key))
			}
			return nil
		})
	})
	cmd.Flags().BoolVar(&keys, "keys", false, "list the keys of the lease")
	return cmd
}

// jsonKey is a key alone in JSON.
type jsonKey struct {
	Key         string `json:"key"`
	KeyEncoding string `json:"key_encoding,omitempty"`
}

func jsonKeys(keys [][]byte) []jsonKey {
	all := make([]jsonKey, len(keys))
	for i, key := range keys {
		all[i].Key, all[i].KeyEncoding = encoded(key)
	}
	return all
}

func newLeaseList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the leases",
		Example: `  kvctl lease list
  kvctl lease list -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				response, err := c.ListLeases(ctx)
				if err != nil {
					return err
				}
				if a.json() {
					leases := []map[string]int64{}
					for _, l := range response.GetLeases() {
						leases = append(leases, map[string]int64{"id": l.GetId(), "ttl_seconds": l.GetTtlSeconds()})
					}
					return a.printJSON(map[string]any{"leases": leases})
				}
				lines := lineTable{app: a, header: []string{"ID", "TTL SECONDS"}}
				for _, l := range response.GetLeases() {
					lines.row(strconv.FormatInt(l.GetId(), 10), strconv.FormatInt(l.GetTtlSeconds(), 10))
				}
				lines.flush()
				return nil
			})
		},
	}
}
