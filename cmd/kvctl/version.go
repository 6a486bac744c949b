package main

import (
	"runtime"

	"github.com/spf13/cobra"
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
				return a.printJSON(map[string]string{"version": version, "commit": commit, "date": date, "go": runtime.Version()})
			}
			a.printf("kvctl %s\n", version)
			return nil
		},
	}
}
