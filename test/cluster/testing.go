package cluster

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// Patience is for a cluster to form or to recover on a busy machine.
const Patience = 60 * time.Second

// programs are those that the tests of one package share.
var programs struct {
	mu    sync.Mutex // guards the fields below
	dir   string
	built map[string]string // the main package -> where its program is
}

// Main is for TestMain: it runs the tests, removes what they had built, and
// returns the status to exit with.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "baton-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs.dir, programs.built = dir, map[string]string{}
	return m.Run()
}

// Program builds a main package, once for all tests of a package, and returns
// where the program is.
func Program(t testing.TB, pkg string) string {
	t.Helper()
	programs.mu.Lock()
	defer programs.mu.Unlock()
	if programs.dir == "" {
		t.Fatal("the package has no TestMain that calls cluster.Main")
	}
	if err := NoteSources(); err != nil {
		t.Fatal(err)
	}
	if programs.built[pkg] == "" {
		program, err := Build(t.Context(), programs.dir, pkg)
		if err != nil {
			t.Fatal(err)
		}
		programs.built[pkg] = program
	}
	return programs.built[pkg]
}

// Run starts n pods of kvd as Launch does, and returns when they are whole.
func Run(t testing.TB, n int, flags ...string) *Cluster {
	t.Helper()
	c := Launch(t, n, flags...)
	if err := c.AwaitWhole(t.Context(), Patience); err != nil {
		t.Fatal(err)
	}
	return c
}

// Launch starts n pods of kvd in a directory of the test, and returns at once.
// They end with the test; if it has failed, it shows what they printed.
func Launch(t testing.TB, n int, flags ...string) *Cluster {
	t.Helper()
	c, err := New(t.TempDir(), Program(t, Kvd), n, flags...)
	if err != nil {
		t.Fatal(err)
	}
	c.EndWith(t)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// EndWith ends the pods with the test, and shows what they printed if it fails.
func (c *Cluster) EndWith(t testing.TB) {
	t.Cleanup(func() {
		c.Close()
		if t.Failed() {
			t.Log(Last(c.Pods...))
		}
	})
}

// AwaitMaster returns the master as soon as there is one.
func (c *Cluster) AwaitMaster(t testing.TB) (master *Pod) {
	t.Helper()
	Eventually(t, "a pod is the master", Patience, func(ctx context.Context) error {
		if master = c.Master(ctx); master == nil {
			return fmt.Errorf("none says so")
		}
		return nil
	})
	return master
}

// tryLimit bounds one try of Eventually.
const tryLimit = 5 * time.Second

// Eventually repeats a check until it gives no error, and says how long that
// took. A test in which it takes longer than the limit fails.
func Eventually(t testing.TB, what string, limit time.Duration, check func(context.Context) error) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), tryLimit)
		err := check(ctx)
		cancel()
		took := time.Since(begun)
		if err == nil {
			return took
		}
		if took > limit {
			t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
		time.Sleep(poll)
	}
}
