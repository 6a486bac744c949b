package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
)

func newDel(a *app) *cobra.Command {
	var prefix, prevKV bool
	cmd := &cobra.Command{
		Use: "del KEY", Short: "Delete a key, or the keys with a prefix",
		Long: `Delete a key, or all keys with a prefix, at one revision. To delete what does
not exist is not an error: the output says how many keys there were.`,
		Example: `  kvctl del greeting
  kvctl del --prefix sessions/
  kvctl del greeting --prev-kv -o json`,
		Args:              usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeKeys,
	}
	cmd.Flags().BoolVar(&prefix, "prefix", false, "all keys that start with KEY")
	cmd.Flags().BoolVar(&prevKV, "prev-kv", false, "print what was deleted")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		keys := client.Key(args[0])
		if prefix {
			keys = client.Prefix(args[0])
		}
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			return a.del(ctx, c, keys, prevKV)
		})
	}
	return cmd
}

func (a *app) del(ctx context.Context, c *client.Client, keys client.Keys, prevKV bool) error {
	var options []client.WriteOption
	if prevKV {
		options = append(options, client.WithPrevKV())
	}
	response, err := c.Delete(ctx, keys, options...)
	if err != nil {
		return err
	}
	if a.json() {
		answer := struct {
			Deleted  int64     `json:"deleted"`
			Revision int64     `json:"revision"`
			Prev     []*jsonKV `json:"prev,omitempty"`
		}{Deleted: response.GetDeleted(), Revision: response.GetHeader().GetRevision()}
		if prevKV {
			answer.Prev = toJSONs(response.GetPrevKvs(), true)
		}
		return a.printJSON(answer)
	}
	a.printf("deleted %s\n", plural(response.GetDeleted(), "key"))
	lines := lineTable{app: a, header: []string{"KEY", "VALUE"}}
	for _, kv := range response.GetPrevKvs() {
		lines.row(text(kv.GetKey()), text(kv.GetValue()))
	}
	lines.flush()
	return nil
}
