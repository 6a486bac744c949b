package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/node"
	"github.com/batondb/baton/store"
)

func newSnapshotVerify(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "Check a snapshot file, byte by byte",
		Long: `Check a snapshot file: its checksums, and every invariant of the database in it.
It needs no cluster, and as much free space beside FILE as FILE takes.`,
		Example: `  kvctl snapshot verify backup.db
  kvctl snapshot verify backup.db -o json`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.verifySnapshot(cmd.Context(), args[0])
		},
	}
}

func (a *app) verifySnapshot(ctx context.Context, name string) error {
	progress, end, err := a.fileProgress("checking", name)
	if err != nil {
		return err
	}
	info, err := store.Verify(ctx, name, progress)
	end()
	if err != nil {
		return fmt.Errorf("%s must not be restored: %w", name, err)
	}
	if a.json() {
		return a.printJSON(snapshotInfo(name, info))
	}
	a.printf("%s is whole: revisions %d to %d, index %d, %s\n",
		name, max(info.Compacted, 1), info.Revision, info.Position.Index, size(info.Bytes))
	return nil
}

func newSnapshotRestore(a *app) *cobra.Command {
	var dir, pod string
	cmd := &cobra.Command{
		Use: "restore FILE --data-dir DIR", Short: "Make a snapshot file the data of a new cluster",
		Long: `Check a snapshot file and write it, as the beginning of a new cluster, to the data
directory of a pod that is not running. Start that pod then, and the others with
empty directories: they clone it and join.

The new cluster has an id of its own, so it never mixes with the one that the
snapshot is from. Its revision starts far above the snapshot's: no client sees a
revision twice. Leases and keys are as they were; older versions are not kept.`,
		Example: `  kvctl snapshot restore backup.db --data-dir data/kv-0
  kvctl snapshot restore backup.db --data-dir /var/lib/baton --name kv-0`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !replication.ValidPod(pod) {
				return usagef(cmd, "--name is %q: set it to the name of a pod, <statefulset>-<ordinal>, for example kv-0", pod)
			}
			return a.restoreSnapshot(cmd.Context(), args[0], dir, pod)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "the pod's data directory; it must hold no data")
	cmd.Flags().StringVar(&pod, "name", "kv-0", "the pod that starts the new cluster: the one with the lowest ordinal")
	_ = cmd.MarkFlagRequired("data-dir") // Fails only for a flag that does not exist.
	_ = cmd.MarkFlagDirname("data-dir")
	return cmd
}

func (a *app) restoreSnapshot(ctx context.Context, name, dir, pod string) error {
	progress, end, err := a.fileProgress("restoring", name)
	if err != nil {
		return err
	}
	var info store.Info
	cluster, member, err := node.Initialize(ctx, dir, pod, func(configuration []byte) (err error) {
		info, err = store.RestoreFile(ctx, name, dir, configuration, progress)
		return err
	})
	end()
	if err != nil {
		return err
	}
	if a.json() {
		answer := snapshotInfo(name, info)
		answer["cluster_id"], answer["member_id"], answer["data_dir"] = cluster, member, dir
		return a.printJSON(answer)
	}
	a.printf("%s holds %s at revision %d, as %s of the new cluster %s\n", dir, name, info.Revision, pod, cluster)
	a.printf("next: start %s with --data-dir %s, and the other pods with empty directories\n", pod, dir)
	return nil
}

func snapshotInfo(name string, info store.Info) map[string]any {
	return map[string]any{
		"file": name, "revision": info.Revision, "oldest_revision": max(info.Compacted, 1),
		"index": info.Position.Index, "term": info.Position.Term, "size_bytes": info.Bytes,
	}
}

// fileProgress shows a bar while a file is read.
func (a *app) fileProgress(what, name string) (progress func(done, total int64), end func(), err error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, nil, err
	}
	bar := a.newProgress(what, info.Size())
	return func(done, _ int64) { bar.set(done) }, bar.end, nil
}
