//go:build e2e

package datastore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/test/cluster"
)

// writesBack is how long the API server's writes may stand still when Baton's
// master is killed.
const writesBack = 10 * time.Second

// TestKubernetesOnBaton goes through the life of a StatefulSet, which is Baton's
// own manifest, on a Kubernetes that stores in Baton.
func TestKubernetesOnBaton(t *testing.T) {
	pods := startPods(t)
	script(t, []string{"KUBE_DATASTORE=" + pods.endpoints(), "NODES=1"}, "up")
	t.Cleanup(func() { script(t, nil, "down") })
	server := processOf(t, "apiserver")
	show(t, "Kubernetes is up on Baton: %s", kubectl(t, "get", "nodes", "--no-headers"))
	keys, err := pods.admin.Count(t.Context(), client.Prefix("/registry/"))
	if err != nil || keys < 100 {
		t.Fatalf("Baton holds %d keys of Kubernetes, %v", keys, err)
	}
	show(t, "Baton holds %d keys under /registry/; the etcd that the scripts start beside it holds: %s",
		keys, run(t, time.Minute, nil, filepath.Join(home(), "bin", "etcd"), "ctl", "get", "", "--prefix", "--count-only", "-w", "fields"))

	for _, volume := range glob(t, filepath.Join(home(), "volumes", "*")) {
		if err := os.Chmod(volume, 0o777); err != nil { // hostPath volumes are root's.
			t.Fatal(err)
		}
	}
	_ = exec.Command(filepath.Join(*kubeDir, "load"), filepath.Join(*bin, "baton.tar")).Run() // Its status is that of a node that may not exist.
	w := startWitness(t, newAPI(t))
	start := time.Now()
	kubectl(t, "apply", "-f", filepath.Join(*deploy, "statefulset.yaml"))
	kubectl(t, "rollout", "status", "statefulset/kv", "--timeout=4m")
	show(t, "a StatefulSet of three pods was rolled out in %s", since(start))

	start = time.Now()
	w.longestGap()
	kubectl(t, "rollout", "restart", "statefulset/kv")
	eventually(t, time.Minute, "the rolling restart is under way", func() bool {
		return kubectl(t, "get", "statefulset/kv", "-o", "jsonpath={.status.updatedReplicas}") == "1"
	})
	master := pods.AwaitMaster(t)
	cluster.Kill(master)
	show(t, "kill -9 of Baton's master, %s, under the rolling restart", master.Name)
	kubectl(t, "rollout", "status", "statefulset/kv", "--timeout=4m")
	gap := w.longestGap()
	show(t, "the rolling restart ended after %s; the longest time between two writes through the API server was %s",
		since(start), gap.Round(10*time.Millisecond))
	if gap > writesBack {
		t.Errorf("writes stood still for %s", gap)
	}
	if err := errors.Join(master.Start(), pods.AwaitWhole(t.Context(), time.Minute)); err != nil {
		t.Fatal(err)
	}

	compaction(t, pods)
	w.check()
	show(t, "a watch that was open all the time saw all of %d writes; %d writes failed", w.writes, w.failed)
	if now := processOf(t, "apiserver"); now != server {
		t.Errorf("the API server was process %d and is %d", server, now)
	}
	show(t, "the API server is still the process it was; node: %s", kubectl(t, "get", "nodes", "--no-headers"))
}

// compaction: a second API server like the first, whose compactor does not wait
// for five minutes.
func compaction(t *testing.T, pods *pods) {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", processOf(t, "apiserver")))
	if err != nil {
		t.Fatal(err)
	}
	arguments := strings.Split(string(bytes.TrimRight(raw, "\x00")), "\x00")
	arguments = append(arguments, "--secure-port=16443", "--etcd-compaction-interval=5s", "--endpoint-reconciler-type=none")
	second := exec.Command(arguments[0], arguments[1:]...)
	second.Dir = t.TempDir()
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = second.Process.Signal(syscall.SIGKILL)
		_ = second.Wait()
	}()
	before, _ := pods.history()
	eventually(t, 2*time.Minute, "the API server's compactor compacts", func() bool {
		oldest, _ := pods.history()
		return oldest > before+1
	})
	first, _ := pods.history()
	eventually(t, time.Minute, "it compacts again", func() bool {
		oldest, _ := pods.history()
		return oldest > first
	})
	oldest, newest := pods.history()
	show(t, "the API server's compactor works: the oldest revision that Baton keeps went from %d to %d, then %d; the newest is %d",
		before, first, oldest, newest)
}

// processOf is the id of a part of the test Kubernetes.
func processOf(t *testing.T, part string) (id int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(home(), "pid", part))
	if err == nil {
		_, err = fmt.Sscan(string(text), &id)
	}
	if err == nil {
		err = syscall.Kill(id, 0)
	}
	if err != nil {
		t.Fatalf("the %s of the test Kubernetes does not run: %v", part, err)
	}
	return id
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func since(start time.Time) time.Duration { return time.Since(start).Round(100 * time.Millisecond) }

// show prints what the test is for.
func show(t *testing.T, format string, values ...any) {
	t.Helper()
	fmt.Printf("== %s\n", strings.Join(strings.Fields(fmt.Sprintf(format, values...)), " "))
}
