package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func newWatch(a *app) *cobra.Command {
	var revision int64
	var prefix, prevKV bool
	cmd := &cobra.Command{
		Use: "watch KEY", Short: "Follow the changes of a key, or of the keys with a prefix",
		Long: `Print each change of a key, or of the keys with a prefix, once and in order,
until it is stopped. It goes on where it was over lost pods and changes of
master, and waits as long as that takes. Each line is revision, put or del, key
and value; with -o json one document a line.`,
		Example: `  kvctl watch greeting
  kvctl watch --prefix users/ --prev-kv
  kvctl watch --prefix "" --rev 1 -o json`,
		Args:              usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeKeys,
	}
	f := cmd.Flags()
	f.BoolVar(&prefix, "prefix", false, "all keys that start with KEY; with \"\" every key")
	f.Int64Var(&revision, "rev", 0, "from this revision on; 0: from now on")
	f.BoolVar(&prevKV, "prev-kv", false, "print what was there before as well")
	noFiles(cmd, "rev")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if revision < 0 {
			return usagef(cmd, "--rev cannot be negative")
		}
		keys := client.Key(args[0])
		if prefix {
			keys = client.Prefix(args[0])
		}
		c, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := a.checkReachable(cmd, c); err != nil {
			return err
		}
		return a.watch(cmd.Context(), c, keys, revision, prevKV)
	}
	return cmd
}

// checkReachable turns wrong --endpoints into an error instead of an endless wait.
func (a *app) checkReachable(cmd *cobra.Command, c *client.Client) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	_, err := c.Status(ctx)
	return err
}

func (a *app) watch(ctx context.Context, c *client.Client, keys client.Keys, revision int64, prevKV bool) error {
	lines := lineTable{app: a, header: []string{"REVISION", "CHANGE", "KEY", "VALUE"}}
	options := []client.WatchOption{client.FromRevision(revision)}
	if prevKV {
		options = append(options, client.WatchPrevKV())
		lines.header = append(lines.header, "BEFORE")
	}
	for response, err := range c.Watch(ctx, keys, options...) {
		if ctx.Err() != nil {
			return nil // stopped
		}
		if err != nil {
			return err
		}
		for _, e := range response.GetEvents() {
			if err := a.printEvent(&lines, e, prevKV); err != nil {
				return err
			}
		}
		lines.flush()
		if err := a.flush(); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printEvent(lines *lineTable, e *kvv1.Event, prev bool) error {
	deleted := e.GetType() == kvv1.Event_TYPE_DELETE
	change := "put"
	if deleted {
		change = "del"
	}
	if a.json() {
		return a.printJSON(struct {
			Revision int64   `json:"revision"`
			Change   string  `json:"change"`
			KV       *jsonKV `json:"kv"`
			Prev     *jsonKV `json:"prev,omitempty"`
		}{e.GetKv().GetModRevision(), change, toJSON(e.GetKv(), !deleted), toJSON(e.GetPrevKv(), true)})
	}
	row := []string{strconv.FormatInt(e.GetKv().GetModRevision(), 10), change, text(e.GetKv().GetKey()), text(e.GetKv().GetValue())}
	if prev {
		row = append(row, text(e.GetPrevKv().GetValue()))
	}
	lines.row(row...)
	return nil
}
