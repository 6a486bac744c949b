package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

const module = "github.com/batondb/baton"

// The main packages of Baton's programs.
const (
	Kvd   = module + "/cmd/kvd"
	Kvctl = module + "/cmd/kvctl"
)

// Build builds a main package, Baton's or one of the caller's module, into dir,
// and returns where the program is.
func Build(ctx context.Context, dir, pkg string, flags ...string) (string, error) {
	program := filepath.Join(dir, programName(pkg))
	arguments := append([]string{"build", "-o", program}, flags...)
	command := exec.CommandContext(ctx, "go", append(arguments, pkg)...)
	if strings.HasPrefix(pkg, module+"/") {
		root, err := root()
		if err != nil {
			return "", err
		}
		command.Dir = root // Its dependencies are those of its own module.
		if !slices.Contains(flags, "-race") {
			// As in the image: its resolver is Go's own.
			command.Env = append(os.Environ(), "CGO_ENABLED=0")
		}
	}
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, bytes.TrimSpace(output))
	}
	return program, nil
}

// programName is the last part of a package's path that is no version.
func programName(pkg string) string {
	if name := path.Base(pkg); !strings.HasPrefix(name, "v") {
		return name
	}
	return path.Base(path.Dir(pkg))
}

// root is the directory of Baton's module.
var root = sync.OnceValues(func() (string, error) {
	output, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the module %s: %w", module, err)
	}
	return strings.TrimSpace(string(output)), nil
})

// NoteSources looks at every file that Baton's programs are built of: go test
// sees that, and does not take an older result for this one when one of them has
// changed.
func NoteSources() error {
	root, err := root()
	if err != nil {
		return err
	}
	for _, dir := range []string{"client", "cmd", "internal", "kubernetes", "proto", "replication", "server", "store"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ os.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
