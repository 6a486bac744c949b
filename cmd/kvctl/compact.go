package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
)

func newCompact(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "compact REVISION", Short: "Forget the history before a revision",
		Long: `Forget every version of a key that was replaced or deleted before REVISION.
REVISION itself and what comes after stay readable. The cluster also compacts by
itself; this is for when the disk needs room now.`,
		Example: `  kvctl compact 120000
  kvctl compact "$(kvctl status -o json | jq '[.pods[].revision] | max')"`,
		Args:              usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || revision <= 0 {
				return usagef(cmd, "%q is no revision", args[0])
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				if err := c.Compact(ctx, revision); err != nil {
					return err
				}
				if a.json() {
					return a.printJSON(map[string]int64{"oldest_revision": revision})
				}
				a.printf("the oldest revision is %d\n", revision)
				return nil
			})
		},
	}
}
