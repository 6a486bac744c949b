package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is stamped by the build.
var version = "dev"

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of kvctl",
		Long: "Print the version of kvctl. The pods' versions are in kvctl status.",
		Example: `  kvctl version
  kvctl version -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				return a.printJSON(map[string]string{"version": version, "commit": commit(), "go": runtime.Version()})
			}
			a.printf("kvctl %s\n", version)
			return nil
		},
	}
}

// commit is the commit that kvctl was built from, when the build knows it.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return ""
}
