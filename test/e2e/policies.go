package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// idleImage is on the nodes of the test Kubernetes: a program that waits.
const idleImage = "kube.local/pause:1"

// enforce makes network policies count on every node until the test ends: the test
// Kubernetes has no network plugin that does.
func (l *lab) enforce() {
	l.t.Helper()
	out, err := kubectl("", "", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, node := range strings.Fields(out) {
		l.enforceOn(node)
	}
}

func (l *lab) enforceOn(node string) {
	l.t.Helper()
	args := []string{*policies, "-node", node}
	if number := node[strings.LastIndexByte(node, '-')+1:]; number != "0" {
		args = append([]string{"nsenter", "--net=/run/netns/kube-" + number}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	log, err := os.Create(filepath.Join(l.t.TempDir(), node+".policies.log"))
	if err != nil {
		l.t.Fatal(err)
	}
	cmd.Stderr = log
	ready, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // It takes its rules away.
		if err := cmd.Wait(); err != nil {
			text, _ := os.ReadFile(log.Name()) // for a person
			l.t.Errorf("policies on %s: %v\n%s", node, err, text)
		}
		_ = log.Close()
	})
	if line, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		text, _ := os.ReadFile(log.Name())
		l.t.Fatalf("policies on %s: %q, %v\n%s", node, line, err, text)
	}
}

// reaches says whether a connection from within a process's network to an address
// comes about.
func reaches(ctx context.Context, process int, address string) bool {
	host, port, _ := strings.Cut(address, ":")
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", process), "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%s", host, port)).Run() == nil
}
