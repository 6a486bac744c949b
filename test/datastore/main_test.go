//go:build e2e

package datastore

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	kubeDir = flag.String("kube-dir", "", "the scripts of a test Kubernetes on this machine")
	bin     = flag.String("bin", "bin", "where kvd is, and the image baton.tar")
	deploy  = flag.String("deploy", "deploy", "the folder deploy")
)

// run runs a command and returns what it printed.
func run(t *testing.T, limit time.Duration, environment []string, name string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	command := exec.CommandContext(ctx, name, arguments...)
	command.Env = append(os.Environ(), environment...)
	output := &strings.Builder{}
	command.Stdout, command.Stderr = output, output
	// What it starts in the background must not hold it.
	command.WaitDelay = time.Second
	if err := command.Run(); err != nil && !strings.Contains(err.Error(), "WaitDelay") {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, output)
	}
	return output.String()
}

func kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	return strings.TrimSpace(run(t, 5*time.Minute, nil, "kubectl", arguments...))
}

// script runs one of the scripts of the test Kubernetes.
func script(t *testing.T, environment []string, name string, arguments ...string) {
	t.Helper()
	run(t, 15*time.Minute, environment, filepath.Join(*kubeDir, name), arguments...)
}

// home is where the test Kubernetes has its files.
func home() string { return os.Getenv("KUBE_HOME") }

// eventually waits for what becomes true by itself.
func eventually(t *testing.T, limit time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !is(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %s, this is not so: %s", limit, what)
		}
	}
}
