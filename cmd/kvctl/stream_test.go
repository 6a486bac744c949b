package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/batondb/baton/client/clienttest"
)

// output is what a command that goes on has printed so far.
type output struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// await waits until something was printed.
func (o *output) await(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(o.String(), want) {
			return
		}
	}
	t.Fatalf("never printed %q, but %q", want, o.String())
}

func startCluster(t *testing.T) *clienttest.Cluster {
	t.Helper()
	fake, err := clienttest.Start(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	return fake
}

// start runs a command that goes on until stop, which gives its exit code.
func start(t *testing.T, endpoints []string, args ...string) (out, errOut *output, stop func() int) {
	t.Helper()
	out, errOut = &output{}, &output{}
	ctx, cancel := context.WithCancel(context.Background())
	a := &app{in: strings.NewReader(""), out: out, err: errOut, env: func(string) string { return "" }}
	code := make(chan int, 1)
	args = append(args, "--endpoints", strings.Join(endpoints, ","))
	go func() { code <- a.run(ctx, args) }()
	t.Cleanup(cancel)
	return out, errOut, func() int {
		cancel()
		return <-code
	}
}

// kvctl runs a command to its end.
func kvctl(t *testing.T, endpoints []string, args ...string) string {
	t.Helper()
	return runKvctl(endpoints, args, "", func(*app) {})
}

func TestWatchFollowsUntilStopped(t *testing.T) {
	fake := startCluster(t)
	kvctl(t, fake.Endpoints(), "put", "a", "0")
	out, _, stop := start(t, fake.Endpoints(), "watch", "a", "--rev", "1", "--prev-kv")
	json, _, stopJSON := start(t, fake.Endpoints(), "watch", "--prefix", "", "--rev", "1", "-o", "json")
	for i := range 3 {
		kvctl(t, fake.Endpoints(), "put", "a", fmt.Sprint(i+1))
		out.await(t, fmt.Sprintf("%d\tput\ta\t%d\t%d\n", i+3, i+1, i))
		fake.StopPod(i)
		if err := fake.StartPod(i); err != nil {
			t.Fatal(err)
		}
	}
	kvctl(t, fake.Endpoints(), "del", "a")
	out.await(t, "6\tdel\ta\t\t3\n")
	if lines := strings.Count(out.String(), "\n"); lines != 5 {
		t.Fatalf("%d lines:\n%s", lines, out)
	}
	json.await(t, `{"revision":6,"change":"del","kv":{"key":"a","create_revision":0,"mod_revision":6,"version":0,"lease":0}}`)
	if code := stop(); code != exitOK {
		t.Fatalf("exit %d", code)
	}
	if code := stopJSON(); code != exitOK {
		t.Fatalf("exit %d", code)
	}
}

func TestLeaseKeepAliveEndsWithTheLease(t *testing.T) {
	fake := startCluster(t)
	id := strings.TrimSpace(kvctl(t, fake.Endpoints(), "lease", "grant", "1"))
	out, errOut, stop := start(t, fake.Endpoints(), "lease", "keep-alive", id)
	out.await(t, "keeping lease 1 alive")
	kvctl(t, fake.Endpoints(), "lease", "revoke", id)
	errOut.await(t, "lease 1 ended: lease not found")
	if code := stop(); code != exitNotFound {
		t.Fatalf("exit %d", code)
	}
}

func TestStatusWatchDrawsAgain(t *testing.T) {
	fake := startCluster(t)
	out, _, stop := start(t, fake.Endpoints(), "status", "--watch")
	out.await(t, "3 ready, master kv-0")
	fake.SetMaster(1)
	fake.StopPod(2)
	out.await(t, "2 ready, master kv-1")
	if code := stop(); code != exitOK {
		t.Fatalf("exit %d", code)
	}
}

func TestSnapshotSaveIsAllOrNothing(t *testing.T) {
	fake := startCluster(t)
	file := filepath.Join(t.TempDir(), "backup.db")
	fake.After(func(_ int, method string) error {
		if method == "Snapshot" {
			return errors.New("the pod is gone")
		}
		return nil
	})
	if got := kvctl(t, fake.Endpoints(), "snapshot", "save", file); !strings.Contains(got, "the pod is gone") {
		t.Fatal(got)
	}
	if left, _ := filepath.Glob(file + "*"); len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
	fake.After(nil)
	got := runKvctl(fake.Endpoints(), []string{"snapshot", "save", file}, "", func(a *app) { a.errTerminal = true })
	if !strings.Contains(got, "15 B of 15 B") {
		t.Fatal(got)
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "not a database\n" {
		t.Fatalf("%q %v", content, err)
	}
}

// A link or a device under FILE's name, and a link under a name that a program
// might take for the part, stay as they are.
func TestSnapshotSaveFollowsNoLink(t *testing.T) {
	fake := startCluster(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(at("victim"), []byte("precious"), 0o600), os.Symlink(at("victim"), at("backup.db.part")),
		os.Symlink(at("victim"), at("link")), os.Symlink(at("nothing"), at("dangling")), syscall.Mkfifo(at("pipe"), 0o600), os.Mkdir(at("dir"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "dangling", "pipe", "dir"} {
		before, _ := os.Lstat(at(name))
		if got := kvctl(t, fake.Endpoints(), "snapshot", "save", at(name)); !strings.Contains(got, "is not a regular file") {
			t.Errorf("%s: %s", name, got)
		}
		if after, err := os.Lstat(at(name)); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s was replaced, %v", name, err)
		}
	}
	for range 2 { // The second one replaces what the first has written.
		kvctl(t, fake.Endpoints(), "snapshot", "save", at("backup.db"))
		if content, err := os.ReadFile(at("backup.db")); err != nil || string(content) != "not a database\n" {
			t.Errorf("%q %v", content, err)
		}
	}
	if content, err := os.ReadFile(at("victim")); err != nil || string(content) != "precious" {
		t.Errorf("the link was followed: %q, %v", content, err)
	}
	if left, _ := filepath.Glob(at("*.part")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// Standard output gets the snapshot and nothing else; a terminal, and a wish for
// JSON, get nothing of it.
func TestSnapshotSaveToStdout(t *testing.T) {
	fake := startCluster(t)
	t.Chdir(t.TempDir())
	if got := kvctl(t, fake.Endpoints(), "snapshot", "save", "-"); got != "not a database\n" {
		t.Errorf("%q", got)
	}
	if got := kvctl(t, fake.Endpoints(), "-o", "json", "snapshot", "save", "-"); !strings.Contains(got, "leave it out") {
		t.Errorf("%q", got)
	}
	got := runKvctl(fake.Endpoints(), []string{"snapshot", "save", "-"}, "", func(a *app) { a.outTerminal = true })
	if !strings.Contains(got, "pipe it") || strings.Contains(got, "database") {
		t.Errorf("%q", got)
	}
	if left, err := os.ReadDir("."); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestSnapshotRestoreNames(t *testing.T) {
	for _, pod := range []string{"../../x", "../../x-0", "kv", "/kv-0", "KV-0", "", "kv-0/"} {
		dir := filepath.Join(t.TempDir(), "data")
		file := filepath.Join(t.TempDir(), "backup.db")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		got := runKvctl(nil, []string{"snapshot", "restore", file, "--data-dir", dir, "--name", pod}, "", func(*app) {})
		if !strings.Contains(got, "<statefulset>-<ordinal>, for example kv-0") {
			t.Errorf("%q: %s", pod, got)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: the directory was made, %v", pod, err)
		}
	}
}

func TestBenchMeasures(t *testing.T) {
	fake := startCluster(t)
	for _, args := range [][]string{
		{"put", "--total", "500"}, {"put", "--total", "5000", "--batch"},
		{"get", "--total", "500", "--connections", "2"}, {"watch", "--total", "20", "--clients", "10"},
	} {
		got := kvctl(t, fake.Endpoints(), append([]string{"bench", "-o", "json"}, args...)...)
		var result struct {
			Count int
			Rate  float64 `json:"rate_per_second"`
			P99   float64 `json:"p99_ms"`
		}
		if err := json.Unmarshal([]byte(got), &result); err != nil || result.Rate <= 0 || result.P99 <= 0 || result.Count < 200 {
			t.Fatalf("bench %v: %s %v", args, got, err)
		}
	}
	if got := kvctl(t, fake.Endpoints(), "bench", "put", "--total", "10"); !strings.Contains(got, "P99") {
		t.Fatal(got)
	}
}

func TestLargeRangesStream(t *testing.T) {
	fake := startCluster(t)
	kvctl(t, fake.Endpoints(), "bench", "put", "--batch", "--total", "3000", "--value-size", "1")
	got := kvctl(t, fake.Endpoints(), "get", "--prefix", "", "--keys-only", "--reverse")
	lines := strings.Split(strings.TrimSpace(got), "\n")
	if len(lines) != 3000 || lines[0] != "kvctl-bench/00002999" || lines[2999] != "kvctl-bench/00000000" {
		t.Fatalf("%d lines, from %s to %s", len(lines), lines[0], lines[len(lines)-1])
	}
	var document struct {
		KVs   []jsonKV
		Count int
	}
	if err := json.Unmarshal([]byte(kvctl(t, fake.Endpoints(), "get", "--prefix", "", "-o", "json", "--limit", "2500")), &document); err != nil {
		t.Fatal(err)
	}
	if len(document.KVs) != 2500 || document.Count != 2500 {
		t.Fatalf("%d keys, count %d", len(document.KVs), document.Count)
	}
}

// Every verb's help teaches: two to four examples, each of which is kvctl.
func TestEveryVerbHasExamples(t *testing.T) {
	a := &app{env: func(string) string { return "" }}
	root := newRoot(a)
	for _, cmd := range root.Commands() {
		all := append(cmd.Commands(), cmd)
		for _, verb := range all {
			if verb.Name() == "completion" || verb.Name() == "help" {
				continue
			}
			if n := strings.Count(verb.Example, "kvctl "); n < 1 || verb.Short == "" {
				t.Errorf("%s: %d examples", verb.CommandPath(), n)
			}
		}
	}
}
