package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/batondb/baton/test/cluster"
)

// kvctl is the command line, and the cluster that it talks to.
type kvctl struct {
	t         *testing.T
	binary    string
	endpoints string
}

// run returns what kvctl prints; it must succeed.
func (k *kvctl) run(stdin string, args ...string) string {
	k.t.Helper()
	output, code := k.try(stdin, args...)
	if code != 0 {
		k.t.Fatalf("kvctl %s exits with %d:\n%s", strings.Join(args, " "), code, output)
	}
	return output
}

func (k *kvctl) try(stdin string, args ...string) (output string, code int) {
	k.t.Helper()
	command := exec.Command(k.binary, args...)
	command.Env = append(os.Environ(), "BATON_ENDPOINTS="+k.endpoints)
	command.Stdin = strings.NewReader(stdin)
	printed, err := command.CombinedOutput()
	if command.ProcessState == nil {
		k.t.Fatal(err)
	}
	return string(printed), command.ProcessState.ExitCode()
}

// watch runs kvctl watch, and returns what it has printed so far.
func (k *kvctl) watch(args ...string) (printed func() string) {
	k.t.Helper()
	file, err := os.Create(filepath.Join(k.t.TempDir(), "watched"))
	if err != nil {
		k.t.Fatal(err)
	}
	command := exec.Command(k.binary, append([]string{"watch"}, args...)...)
	command.Env = append(os.Environ(), "BATON_ENDPOINTS="+k.endpoints)
	command.Stdout, command.Stderr = file, os.Stderr
	if err := command.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		command.Process.Signal(syscall.SIGINT)
		command.Wait()
		file.Close()
	})
	return func() string {
		text, err := os.ReadFile(file.Name())
		if err != nil {
			k.t.Fatal(err)
		}
		return string(text)
	}
}

func (k *kvctl) eventually(what string, is func() bool) {
	k.t.Helper()
	cluster.Eventually(k.t, what, cluster.Patience, func(context.Context) error {
		if !is() {
			return errors.New("not so")
		}
		return nil
	})
}

func (k *kvctl) want(printed, part string) {
	k.t.Helper()
	if !strings.Contains(printed, part) {
		k.t.Errorf("%q is not in what it prints:\n%s", part, printed)
	}
}

// TestKvctl is the README's first session, on real pods, with the master killed
// in the middle of it.
func TestKvctl(t *testing.T) {
	c := cluster.Run(t, pods)
	all, master := c.Pods, whole(t, c)
	k := &kvctl{t: t, binary: cluster.Program(t, cluster.Kvctl), endpoints: strings.Join(c.Endpoints(), ",")}

	k.run("", "put", "greeting", "hello")
	for _, p := range all {
		k.want(k.run("", "--endpoints", p.Client, "get", "greeting"), "hello")
	}
	k.run("from standard input", "put", "config/note")
	k.want(k.run("", "get", "config/", "--prefix"), "from standard input")
	watched := k.watch("config/", "--prefix", "--rev", "1")
	k.eventually("the watch shows the past", func() bool { return strings.Contains(watched(), "config/note") })

	var status struct {
		ClusterID string `json:"cluster_id"`
		Pods      []struct {
			Name, Role string
			Ready      bool
		}
	}
	if err := json.Unmarshal([]byte(k.run("", "status", "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	if len(status.Pods) != pods || status.ClusterID == "" || status.Pods[master].Role != "master" || !status.Pods[master].Ready {
		t.Errorf("status: %+v", status)
	}
	k.want(k.run("", "members"), "kv-2")

	cluster.Kill(all[master])
	k.run("", "put", "config/color", "blue")
	k.eventually("the watch goes on after the change of master", func() bool { return strings.Contains(watched(), "config/color") })
	k.want(k.run("", "get", "greeting"), "hello")

	k.run("if greeting exists\nthen\nput greeting goodbye\nelse\nput greeting hello\n", "txn")
	k.want(k.run("", "get", "greeting"), "goodbye")
	k.want(k.run("", "get", "greeting", "--rev", "2"), "hello")
	lease := strings.TrimSpace(k.run("", "lease", "grant", "60"))
	k.run("", "put", "session/1", "me", "--lease", lease)
	k.run("", "lease", "revoke", lease)
	if output, code := k.try("", "get", "session/1"); code == 0 {
		t.Errorf("the key outlives its lease: %s", output)
	}
	k.run("", "del", "config/", "--prefix")
	if output, code := k.try("", "compact", "1000000"); code == 0 || !strings.Contains(output, "revision") {
		t.Errorf("compact to the future exits with %d: %s", code, output)
	}

	backup := filepath.Join(t.TempDir(), "backup.snap")
	k.run("", "snapshot", "save", backup)
	k.run("", "snapshot", "verify", backup)
	damage(t, backup)
	if output, code := k.try("", "snapshot", "verify", backup); code == 0 {
		t.Errorf("a damaged backup is good: %s", output)
	}
	if output, code := k.try("", "--endpoints", "127.0.0.1:1", "--timeout", "500ms", "get", "greeting"); code == 0 || output == "" {
		t.Errorf("nobody there: exits with %d: %s", code, output)
	}
}

func damage(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(content, []byte("goodbye"))
	if at < 0 {
		t.Fatal("the value is not in the backup")
	}
	content[at] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
