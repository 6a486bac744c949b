package main

import (
	"github.com/spf13/cobra"

	"github.com/batondb/baton/internal/buildinfo"
)

// Stamped by the build; see the Makefile.
var version, commit, date = "dev", "", ""

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of kvctl",
		Long: "Print the version of kvctl. The pods' versions are in kvctl status.",
		Example: `  kvctl version
  kvctl version -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				return a.printJSON(buildinfo.Read(version, commit, date))
			}
			a.printf("kvctl %s\n", version)
			return nil
		},
	}
}
