package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/recovery"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/node"
	"github.com/batondb/baton/store"
)

// recovery is a recovery that nobody has decided yet; pod is nil outside
// Kubernetes.
func (c *config) recovery(lost []string, pod *kubernetes.Pod, logger *slog.Logger) replication.Recovery {
	r := replication.Recovery{
		Dir: c.dataDir, Name: c.name, Lost: lost, Logger: logger, Write: store.BeginHistory,
		Open: func() (replication.StateMachine, func() error, error) {
			st, err := store.Open(store.Options{Dir: c.dataDir, Logger: logger})
			if err != nil {
				return nil, nil, fmt.Errorf("open the database: %w", err)
			}
			return st, st.Close, nil
		},
	}
	if pod != nil {
		r.Gone = pod.Gone
	}
	return r
}

func recoverCommand() *cobra.Command {
	var lost []string
	command := podCommand(&cobra.Command{
		Use:   "recover --lost POD,POD",
		Short: "Begin a new history with this pod's data, when a majority of the volumes is lost",
		Long: "Make this pod's data the beginning of a new cluster with this pod as its only member, when the\n" +
			"volumes of a majority are lost. Run it in the pod whose log says the highest last_log_term and, of those, the highest last_index,\n" +
			"and name the pods whose volumes are lost for good:\n\n" +
			"  kubectl exec kv-1 -- kvd recover --lost kv-0,kv-2\n\n" +
			"It is refused while a master or a quorum answers, and when a pod that does not answer may not be lost:\n" +
			"it is not named, or Kubernetes says that it runs. Writes that only the lost volumes had are gone.\n" +
			"The old data is kept beside the new one, in replaced-*, and takes as much space.",
	}, func(cmd *cobra.Command, c *config) error {
		text, err := recoverPod(cmd.Context(), c, lost)
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), text)
		return nil
	})
	command.Flags().StringSliceVar(&lost, "lost", nil, "the pods whose volumes are lost for good; those that Kubernetes knows to be gone, with their claims, need not be named")
	return command
}

// recoverPod asks the running pod, or recovers the data itself if none runs.
func recoverPod(ctx context.Context, c *config, lost []string) (string, error) {
	logger := slog.New(slog.DiscardHandler)
	inKubernetes := c.inKubernetes(logger)
	// Without it nobody answers, and silence is a reason to recover.
	tls, unsafe := c.commandTLS(ctx, inKubernetes, logger)
	listener, err := c.world.complete().listen("tcp", "127.0.0.1:0") // Nobody is to find it.
	if err != nil {
		return "", err
	}
	options := replication.Options{
		Dir: c.dataDir, Name: c.name, Resolver: newResolver(c).resolve, Listener: listener, Peers: c.peers, Dial: c.world.dial,
		Receive: func(io.Reader) (replication.Position, error) { return replication.Position{}, errRecover },
		Timing:  replication.Timing{LockWait: time.Second}, Logger: logger, Security: tls.security(),
	}
	node, err := node.Open(ctx, options)
	if errors.Is(err, replication.ErrLocked) {
		return recovery.Request(ctx, c.dataDir, lost)
	}
	if err == nil && unsafe != nil {
		err = errors.Join(unsafe, node.Close(ctx))
	}
	if err != nil {
		return "", err
	}
	api := inKubernetes.api()
	r := c.recovery(lost, api, logger)
	r.Cluster, err = recovery.Decide(ctx, node, r, api)
	if err := errors.Join(err, node.Close(ctx)); err != nil {
		return "", err
	}
	disk, err := recovery.FinishOrWait(ctx, r)
	if err != nil {
		return "", err
	}
	return recovery.Done(disk), nil
}
