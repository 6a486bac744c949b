package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The main packages of the programs.
const (
	kvd     = "github.com/batondb/baton/cmd/kvd"
	kvctl   = "github.com/batondb/baton/cmd/kvctl"
	etcd    = "go.etcd.io/etcd/server/v3"
	etcdctl = "go.etcd.io/etcd/etcdctl/v3"
)

// binaries holds the programs that the tests of one package share.
var binaries struct {
	mu    sync.Mutex
	dir   string
	built map[string]string // The main package -> where its program is.
}

// Main is for TestMain: it runs the tests, removes what they had built, and
// returns the status to exit with.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "baton-test-etcd-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries.dir, binaries.built = dir, map[string]string{}
	return m.Run()
}

// Etcdctl builds etcdctl, and returns where it is.
func Etcdctl(t testing.TB) string { return build(t, etcdctl) }

func build(t testing.TB, program string) string {
	t.Helper()
	binaries.mu.Lock()
	defer binaries.mu.Unlock()
	if path := binaries.built[program]; path != "" {
		return path
	}
	if binaries.dir == "" {
		t.Fatal("the package has no TestMain that calls cluster.Main")
	}
	path := filepath.Join(binaries.dir, strings.NewReplacer("/", "-", ".", "-").Replace(program))
	command := exec.Command("go", "build", "-o", path, program)
	if program == kvd || program == kvctl {
		command.Dir = root(t) // Its dependencies are those of its own module.
	}
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", program, err, output)
	}
	binaries.built[program] = path
	return path
}

// root is the directory of Baton's module.
func root(t testing.TB) string {
	t.Helper()
	output, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/batondb/baton").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(output))
}
