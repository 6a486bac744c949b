package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
)

const (
	defaultEndpoint = "127.0.0.1:7400"
	// defaultTimeout is longer than a change of master and shorter than a
	// person's patience.
	defaultTimeout = 5 * time.Second
)

// app is one run of kvctl: where it reads and writes, and its common flags.
type app struct {
	in  io.Reader
	out io.Writer // buffered from run on
	err io.Writer
	env func(string) string
	// These say whether a person sits at the other end.
	inTerminal, outTerminal, errTerminal bool

	// connection is what the flags say, and from resolveConnection on what counts.
	connection connection
	context    string
	timeout    time.Duration
	output     choice
}

// run runs one command and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	buffered := bufio.NewWriter(a.out)
	a.out = buffered
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "required flag") {
		err = &usageError{cmd, err} // cobra has no hook for this mistake
	}
	if failed := buffered.Flush(); err == nil {
		err = failed // the disk is full, or the reader of a pipe is gone
	}
	if err == nil {
		return exitOK
	}
	return a.report(err)
}

// connect makes the client. Close it.
func (a *app) connect(cmd *cobra.Command) (*client.Client, error) {
	if err := a.resolveConnection(cmd); err != nil {
		return nil, err
	}
	return client.New(a.connection.options())
}

// with runs do with a client and a context that ends after --timeout.
func (a *app) with(cmd *cobra.Command, do func(context.Context, *client.Client) error) error {
	c, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	return do(ctx, c)
}

var errIdle = errors.New("nothing came from the cluster in time")

// withIdle is with for work that may take long: the context ends only when do has
// not called alive for --timeout.
func (a *app) withIdle(cmd *cobra.Command, do func(ctx context.Context, c *client.Client, alive func()) error) error {
	c, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	timer := time.AfterFunc(a.timeout, func() { cancel(errIdle) })
	defer timer.Stop()
	err = do(ctx, c, func() { timer.Reset(a.timeout) })
	if err != nil && errors.Is(context.Cause(ctx), errIdle) {
		return fmt.Errorf("%w (%v): %w", errIdle, a.timeout, err)
	}
	return err
}

func (a *app) json() bool { return a.output.value == "json" }

// printf writes to stdout. An error surfaces in flush, or when the command ends.
func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.out, format, args...)
}

// flush shows what a command that goes on has printed so far.
func (a *app) flush() error {
	if w, ok := a.out.(*bufio.Writer); ok {
		return w.Flush()
	}
	return nil
}

// choice is the value of a flag that takes one of a few words.
type choice struct {
	value   string
	allowed []string
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return "string" }

func (c *choice) Set(value string) error {
	for _, word := range c.allowed {
		if word == value {
			c.value = value
			return nil
		}
	}
	return fmt.Errorf("it must be one of %v", c.allowed)
}

// addChoice adds a flag with a choice, and its shell completion.
func addChoice(cmd *cobra.Command, c *choice, name, short, usage string) {
	flags := cmd.Flags()
	if !cmd.HasParent() && name == "output" {
		flags = cmd.PersistentFlags()
	}
	flags.VarP(c, name, short, usage)
	complete := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return c.allowed, cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(name, complete); err != nil {
		panic("kvctl: completion of --" + name + ": " + err.Error()) // registered twice
	}
}
