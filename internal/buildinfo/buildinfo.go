package buildinfo

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// Info is what a binary says of itself, as "version -o json" prints it.
type Info struct {
	Version string `json:"version"`
	// Commit and Date, RFC 3339, are empty in a build without make.
	Commit   string   `json:"commit"`
	Date     string   `json:"date"`
	Go       string   `json:"go"`
	Platform string   `json:"platform"`
	Modules  []Module `json:"modules"`
}

// Module is a module that is linked into a binary, as it was built: after a
// replacement it is the other one.
type Module struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	// Sum is the one in go.sum; empty: the module is from a folder.
	Sum string `json:"sum,omitempty"`
}

// Read is about the running binary, with what its build has stamped.
func Read(version, commit, date string) Info {
	i := Info{Version: version, Commit: commit, Date: date, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if b, ok := debug.ReadBuildInfo(); ok {
		i.Modules = Modules(b)
	}
	return i
}

// String is the same in one line, without the modules.
func (i Info) String() string {
	return strings.Join(strings.Fields(strings.Join([]string{i.Version, i.Commit, i.Date, i.Go, i.Platform}, " ")), " ")
}

// Modules are those that are linked, in the order of their paths.
func Modules(b *debug.BuildInfo) []Module {
	all := make([]Module, 0, len(b.Deps))
	for _, d := range b.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		all = append(all, Module{Path: d.Path, Version: d.Version, Sum: d.Sum})
	}
	return all
}
