package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// getCommand is kvctl get with its flags.
type getCommand struct {
	app               *app
	revision, limit   int64
	keysOnly, reverse bool
	consistency       choice
	maxStaleness      time.Duration
	prefix            bool
	count             bool
}

func newGet(a *app) *cobra.Command {
	g := &getCommand{app: a, consistency: choice{value: "linearizable", allowed: []string{"linearizable", "bounded", "local"}}}
	cmd := &cobra.Command{
		Use: "get KEY", Short: "Read a key, or the keys with a prefix",
		Long: `Read a key, or the keys with a prefix, however many.

Of one key the value is printed byte by byte (with a newline only on a
terminal); there is nothing on standard output, and the exit code is 3, when the
key does not exist. With --prefix each line is a key and its value.

--consistency: linearizable sees every write that was acknowledged before;
bounded reads a copy that is at most --max-staleness old; local reads whatever
the pod that is asked has, even if no master can be reached.`,
		Example: `  kvctl get greeting
  kvctl get logo > logo.png
  kvctl get --prefix users/ --keys-only
  kvctl get --prefix "" --count-only
  kvctl get greeting --rev 12 -o json
  kvctl get greeting --consistency bounded --max-staleness 500ms`,
		Args:              usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeKeys,
	}
	f := cmd.Flags()
	f.BoolVar(&g.prefix, "prefix", false, "all keys that start with KEY; with \"\" every key")
	f.Int64Var(&g.revision, "rev", 0, "as it was at this revision")
	f.BoolVar(&g.keysOnly, "keys-only", false, "leave the values out")
	f.BoolVar(&g.count, "count-only", false, "print only how many keys there are")
	f.Int64Var(&g.limit, "limit", 0, "at most this many keys")
	f.BoolVar(&g.reverse, "reverse", false, "from the last key down")
	f.DurationVar(&g.maxStaleness, "max-staleness", time.Second, "for --consistency bounded")
	addChoice(cmd, &g.consistency, "consistency", "", "linearizable, bounded or local")
	noFiles(cmd, "rev", "limit", "max-staleness")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return g.run(cmd, args[0])
	}
	return cmd
}

func (g *getCommand) run(cmd *cobra.Command, key string) error {
	switch {
	case g.limit < 0 || g.revision < 0:
		return usagef(cmd, "--limit and --rev cannot be negative")
	case cmd.Flags().Changed("max-staleness") && g.consistency.value != "bounded":
		return usagef(cmd, "--max-staleness needs --consistency bounded")
	case g.maxStaleness < time.Millisecond:
		return usagef(cmd, "--max-staleness must be at least 1ms")
	}
	keys := client.Key(key)
	if g.prefix {
		keys = client.Prefix(key)
	}
	if g.count {
		return g.app.with(cmd, func(ctx context.Context, c *client.Client) error { return g.printCount(ctx, c, keys) })
	}
	if g.prefix {
		return g.app.withIdle(cmd, func(ctx context.Context, c *client.Client, alive func()) error {
			return g.printRange(ctx, c, keys, alive)
		})
	}
	return g.app.with(cmd, func(ctx context.Context, c *client.Client) error { return g.printOne(ctx, c, key) })
}

// options turns the flags into options.
func (g *getCommand) options() []client.ReadOption {
	options := append(g.which(), client.AtRevision(g.revision))
	switch g.consistency.value {
	case "bounded":
		options = append(options, client.MaxStaleness(g.maxStaleness))
	case "local":
		options = append(options, client.LocalRead())
	}
	return options
}

// which leaves out when to read: only which keys to print, and what of them.
func (g *getCommand) which() []client.ReadOption {
	options := []client.ReadOption{client.Limit(g.limit)}
	if g.reverse {
		options = append(options, client.Reverse())
	}
	if g.keysOnly {
		options = append(options, client.KeysOnly())
	}
	return options
}

func (g *getCommand) printCount(ctx context.Context, c *client.Client, keys client.Keys) error {
	count, err := c.Count(ctx, keys, g.options()...)
	if err != nil {
		return err
	}
	if g.app.json() {
		return g.app.printJSON(map[string]int64{"count": count})
	}
	g.app.printf("%d\n", count)
	return nil
}

// printOne prints just the value. JSON has the same form as for many keys.
func (g *getCommand) printOne(ctx context.Context, c *client.Client, key string) error {
	response, err := c.Range(ctx, client.Key(key), g.options()...)
	if err != nil {
		return err
	}
	kvs := response.GetKvs()
	if g.app.json() {
		p := g.printer(response.GetHeader().GetRevision())
		for _, kv := range kvs {
			p.kv(kv)
		}
		p.end()
	}
	switch {
	case len(kvs) == 0:
		return fmt.Errorf("%w: %s", client.ErrNotFound, text([]byte(key)))
	case g.app.json():
	case g.keysOnly:
		g.app.printf("%s\n", text(kvs[0].GetKey()))
	case g.app.outTerminal:
		g.app.printf("%s\n", text(kvs[0].GetValue()))
	default:
		_, err = g.app.out.Write(kvs[0].GetValue())
	}
	return err
}

// printRange prints the first page if there is no more, and otherwise scans at the
// page's revision, so that nothing piles up in memory.
func (g *getCommand) printRange(ctx context.Context, c *client.Client, keys client.Keys, alive func()) error {
	page, err := c.Range(ctx, keys, g.options()...)
	if err != nil {
		return err
	}
	alive()
	revision := page.GetHeader().GetRevision()
	p := g.printer(revision)
	if n := int64(len(page.GetKvs())); !page.GetMore() || (g.limit > 0 && n >= g.limit) {
		for _, kv := range page.GetKvs() {
			p.kv(kv)
		}
		p.end()
		return nil
	}
	at := append(g.which(), client.AtRevision(revision), client.LocalRead(), client.MinRevision(revision))
	for kv, err := range c.Scan(ctx, keys, at...) {
		if err != nil {
			return errors.Join(err, p.broken())
		}
		p.kv(kv)
		alive()
	}
	p.end()
	return nil
}

// kvPrinter prints keys as they come.
type kvPrinter struct {
	getCommand *getCommand
	revision   int64
	count      int64
	lines      lineTable
}

func (g *getCommand) printer(revision int64) *kvPrinter {
	p := &kvPrinter{getCommand: g, revision: revision}
	p.lines = lineTable{app: g.app, header: []string{"KEY", "VALUE"}}
	if g.keysOnly {
		p.lines.header = []string{"KEY"}
	}
	return p
}

func (p *kvPrinter) kv(kv *kvv1.KeyValue) {
	p.count++
	switch {
	case p.getCommand.app.json():
		start := ",\n"
		if p.count == 1 {
			start = "{\"kvs\":["
		}
		p.getCommand.app.printf("%s%s", start, mustJSON(toJSON(kv, !p.getCommand.keysOnly)))
	case p.getCommand.keysOnly:
		p.lines.row(text(kv.GetKey()))
	default:
		p.lines.row(text(kv.GetKey()), text(kv.GetValue()))
	}
}

func (p *kvPrinter) end() {
	if !p.getCommand.app.json() {
		p.lines.flush()
		return
	}
	if p.count == 0 {
		p.getCommand.app.printf("{\"kvs\":[")
	}
	p.getCommand.app.printf("],\"count\":%d,\"revision\":%d}\n", p.count, p.revision)
}

// broken says that the output is incomplete.
func (p *kvPrinter) broken() error {
	p.lines.flush()
	return fmt.Errorf("the output ends after %s of more", plural(p.count, "key"))
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("kvctl: JSON of strings and numbers: " + err.Error())
	}
	return b
}
