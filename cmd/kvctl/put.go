package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
)

// maxValueBytes is the server's limit: more is not read from a file.
const maxValueBytes = 3 << 19

func newPut(a *app) *cobra.Command {
	var lease int64
	var prevKV bool
	var file string
	cmd := &cobra.Command{
		Use: "put KEY [VALUE]", Short: "Write a key",
		Long: `Write a key. The value is the argument, or the content of --file, or of
standard input, byte by byte. At most 1.5 MiB.`,
		Example: `  kvctl put greeting hello
  kvctl put config < config.json
  kvctl put logo --file logo.png
  kvctl put workers/7 alive --lease 7587`,
		Args:              usageArgs(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: a.completeKeys,
	}
	cmd.Flags().StringVar(&file, "file", "", "read the value from this file")
	cmd.Flags().Int64Var(&lease, "lease", 0, "the key ends with this lease")
	cmd.Flags().BoolVar(&prevKV, "prev-kv", false, "print what was there before")
	noFiles(cmd, "lease")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		value, err := a.putValue(cmd, args, file)
		if err != nil {
			return err
		}
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			options := []client.WriteOption{client.WithLease(lease)}
			if prevKV {
				options = append(options, client.WithPrevKV())
			}
			return a.put(ctx, c, args[0], value, options)
		})
	}
	return cmd
}

func (a *app) put(ctx context.Context, c *client.Client, key string, value []byte, options []client.WriteOption) error {
	response, err := c.Put(ctx, key, value, options...)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(struct {
			Revision int64   `json:"revision"`
			Prev     *jsonKV `json:"prev,omitempty"`
		}{response.GetHeader().GetRevision(), toJSON(response.GetPrevKv(), true)})
	}
	a.printf("revision %d\n", response.GetHeader().GetRevision())
	if prev := response.GetPrevKv(); prev != nil {
		a.printf("%s\n", text(prev.GetValue()))
	}
	return nil
}

// putValue reads the value from the one of three places that has it.
func (a *app) putValue(cmd *cobra.Command, args []string, file string) ([]byte, error) {
	switch {
	case len(args) == 2 && file != "":
		return nil, usagef(cmd, "a value and --file exclude each other")
	case len(args) == 2:
		return []byte(args[1]), nil
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readValue(f, file)
	case a.inTerminal:
		return nil, usagef(cmd, "there is no value: give it as an argument, with --file, or on standard input")
	}
	return readValue(a.in, "standard input")
}

func readValue(r io.Reader, name string) ([]byte, error) {
	value, err := io.ReadAll(io.LimitReader(r, maxValueBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(value) > maxValueBytes {
		return nil, fmt.Errorf("%s: a value may have %d bytes at most", name, maxValueBytes)
	}
	return value, nil
}
