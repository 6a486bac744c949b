package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/internal/buildinfo"
)

// Stamped by the build; see the Makefile.
var version, commit, date = "dev", "", ""

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go onSignal(cancel)
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kvd:", err)
		os.Exit(1)
	}
}

// sameSignal: timeout(1) and some supervisors send one stop twice.
const sameSignal = 200 * time.Millisecond

// onSignal begins a clean stop; a second signal exits at once, because whoever
// sends it has waited long enough. The log makes that as safe as a crash.
func onSignal(cancel context.CancelFunc) {
	// A pod must stop cleanly even if nobody reads its output any more.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	first := time.Now()
	cancel()
	for range signals {
		if time.Since(first) > sameSignal {
			os.Exit(130)
		}
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "kvd",
		Short:         "Baton's server: a replicated key-value database",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), devCommand(), adoptCommand(), recoverCommand(), versionCommand())
	return root
}

func versionCommand() *cobra.Command {
	format := ""
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version; with -o json also the modules that are linked",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info := buildinfo.Read(version, commit, date)
			switch format {
			case "":
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "kvd", info)
				return err
			case "json":
				return json.NewEncoder(cmd.OutOrStdout()).Encode(info)
			}
			return fmt.Errorf("--output is %q: set it to json", format)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "", "json, or a line of text")
	return c
}

func serveCommand() *cobra.Command {
	return podCommand(&cobra.Command{
		Use:   "serve",
		Short: "Run one pod",
		Long: "Run one pod until SIGTERM, which hands the baton over and ends what is in flight.\n" +
			"Every flag can be given as an environment variable: --data-dir as BATON_DATA_DIR.",
	}, func(cmd *cobra.Command, c *config) error {
		if err := c.checkPeers(); err != nil {
			return err
		}
		return serve(cmd.Context(), *c)
	})
}

// podCommand gives a command the configuration of one pod.
func podCommand(cmd *cobra.Command, run func(*cobra.Command, *config) error) *cobra.Command {
	c := &config{}
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnvironment(cmd.Flags()); err != nil {
			return err
		}
		if err := c.complete(); err != nil {
			return err
		}
		return run(cmd, c)
	}
	c.register(cmd.Flags())
	return cmd
}
