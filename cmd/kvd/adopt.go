package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/recovery"
	"github.com/batondb/baton/replication"
)

func adoptCommand() *cobra.Command {
	return podCommand(&cobra.Command{
		Use:   "adopt",
		Short: "Make a copy of a cluster's volumes a cluster of its own",
		Long: "Make data that was copied into another namespace or Kubernetes cluster a cluster of its own,\n" +
			"with an id of its own and a new history. Run it in the pod whose copy is to go on; the others set their copies\n" +
			"aside and clone it, for copies of different moments do not fit together:\n\n" +
			"  kubectl exec kv-0 -- kvd adopt\n\n" +
			"The original is not touched.",
	}, func(cmd *cobra.Command, c *config) error {
		disk, err := adopt(cmd.Context(), c)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is the only member of the cluster %s now, in %s; it goes on from %s. The other pods clone it\n",
			disk.Member, disk.Cluster, disk.Place, disk.Replaces)
		return nil
	})
}

func adopt(ctx context.Context, c *config) (replication.Disk, error) {
	logger := slog.New(slog.DiscardHandler)
	o := c.inKubernetes(logger)
	if o == nil {
		return replication.Disk{}, errors.New("kvd adopt needs the Kubernetes API, which says where this pod is: run it in the pod, with kubectl exec")
	}
	return recovery.Adopt(ctx, o.Pod, c.recovery(nil, o.Pod, logger))
}
