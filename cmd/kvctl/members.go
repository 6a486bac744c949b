package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
)

func newMembers(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "members", Short: "List the members, or make another one the master",
		Long: `List the members of the cluster with their ids and addresses. A member is one
incarnation of a pod's disk: a pod that lost its volume comes back as another.
Pods join and leave by themselves, as they are scaled.`,
		Example: `  kvctl members
  kvctl members -o json
  kvctl members handover kv-1`,
	}, newHandOver(a))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			status, err := c.Status(ctx)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(statusJSON(status))
			}
			t := table{colours: a.colours()}
			t.row("ORDINAL", "NAME", "ROLE", "MEMBER ID", "CLIENT ADDRESS", "PEER ADDRESS")
			for _, p := range status.GetPods() {
				t.row(strconv.Itoa(int(p.GetOrdinal())), p.GetName(), role(p), p.GetMemberId(), p.GetClientAddress(), p.GetPeerAddress())
			}
			t.writeTo(a.out)
			return nil
		})
	}
	return cmd
}

func newHandOver(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "handover [POD]", Short: "Make another pod the master",
		Long: `Make POD the master; without POD, the follower that is furthest. Writes wait for
some milliseconds. For example before work on the master's machine.`,
		Example: `  kvctl members handover
  kvctl members handover kv-1`,
		Args:              usageArgs(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			to := ""
			if len(args) == 1 {
				to = args[0]
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				master, err := c.HandOver(ctx, to)
				if err != nil {
					return err
				}
				if a.json() {
					return a.printJSON(map[string]string{"master": master})
				}
				a.printf("the master is %s\n", master)
				return nil
			})
		},
	}
}
