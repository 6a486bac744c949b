package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
)

func newSnapshot(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "snapshot", Short: "Back the database up, and restore it",
		Long: "A snapshot is the whole database at one revision, with its history and leases.",
		Example: `  kvctl snapshot save backup.db
  kvctl snapshot verify backup.db
  kvctl snapshot restore backup.db --data-dir data/kv-0`,
	}, newSnapshotSave(a), newSnapshotRestore(a), newSnapshotVerify(a))
}

func newSnapshotSave(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "save FILE", Short: "Save a snapshot to a file",
		Long: `Save a snapshot of the database to FILE. It is read from a follower if there is
one, while the cluster goes on. FILE appears, or is replaced, only when all of
it is on the disk; until then there is FILE.NUMBER.part. A FILE that is a link, a
device or a directory is refused. With - it goes to standard output, and is whole
only if the exit code is 0.`,
		Example: `  kvctl snapshot save backup.db
  kvctl snapshot save - | gzip > backup.db.gz
  kvctl snapshot save "/backups/$(date +%F).db" --timeout 30s`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case args[0] != toStdout:
			case a.outTerminal:
				return usagef(cmd, "a snapshot on a terminal is of no use: name a file, or pipe it into a program")
			case a.json():
				return usagef(cmd, "-o json would be in the snapshot: leave it out, or name a file")
			}
			return a.withIdle(cmd, func(ctx context.Context, c *client.Client, alive func()) error {
				return a.saveSnapshot(ctx, c, args[0], alive)
			})
		},
	}
}

// toStdout is the name of standard output.
const toStdout = "-"

func (a *app) saveSnapshot(ctx context.Context, c *client.Client, name string, alive func()) error {
	snapshot, total, err := c.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer snapshot.Close()
	bar := a.newProgress("saving", total)
	defer bar.end()
	read := func(w io.Writer) (int64, error) {
		return io.Copy(w, &counting{Reader: snapshot, count: func(n int) {
			alive()
			bar.add(int64(n))
		}})
	}
	if name == toStdout {
		_, err = read(a.out)
		return err
	}
	written, err := writeFile(name, read)
	if err != nil {
		return err
	}
	bar.end()
	if a.json() {
		return a.printJSON(map[string]any{"file": name, "size_bytes": written})
	}
	a.printf("%s: %s\n", name, size(written))
	return nil
}

// writeFile leaves either a complete file on the disk, or none. It writes through
// no link, whoever may have put one there, and replaces only a regular file:
// /dev/stdout is a name that a superuser could take away from the system.
func writeFile(name string, write func(io.Writer) (int64, error)) (n int64, err error) {
	switch info, err := os.Lstat(name); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return 0, err
	case !info.Mode().IsRegular():
		return 0, fmt.Errorf("%s is not a regular file: name one, or one that does not exist yet", name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.part")
	if err != nil {
		return 0, err
	}
	part := f.Name()
	n, err = write(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(part, name)
	}
	if err != nil {
		return n, errors.Join(err, os.Remove(part))
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return n, err
	}
	if err := dir.Sync(); err != nil {
		err = fmt.Errorf("%s is written, its directory is not on the disk yet: %w", name, err)
		return n, errors.Join(err, dir.Close())
	}
	return n, dir.Close()
}

// counting reports how much was read.
type counting struct {
	io.Reader
	count func(n int)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.count(n)
	return n, err
}
