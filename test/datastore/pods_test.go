//go:build e2e

package datastore

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	podCount = 3
	// firstPort is the first of three for each pod, on the loopback of the test
	// Kubernetes' network.
	firstPort = 27400
)

// pods are three processes of kvd.
type pods struct {
	t         *testing.T
	dir       string
	peers     string
	admin     *client.Client
	processes [podCount]*exec.Cmd
}

func clientAddress(i int) string { return fmt.Sprintf("127.0.0.1:%d", firstPort+3*i) }
func peerAddress(i int) string   { return fmt.Sprintf("127.0.0.1:%d", firstPort+3*i+1) }
func httpAddress(i int) string   { return fmt.Sprintf("127.0.0.1:%d", firstPort+3*i+2) }

// startPods starts three empty pods and returns when they have a master.
func startPods(t *testing.T) *pods {
	t.Helper()
	p := &pods{t: t, dir: t.TempDir()}
	var peers, endpoints []string
	for i := range podCount {
		peers = append(peers, fmt.Sprintf("kv-%d=%s", i, peerAddress(i)))
		endpoints = append(endpoints, clientAddress(i))
	}
	p.peers = strings.Join(peers, ",")
	var err error
	if p.admin, err = client.New(client.Options{Endpoints: endpoints}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.admin.Close() })
	for i := range podCount {
		p.start(i)
		t.Cleanup(func() { p.kill(i) })
	}
	eventually(t, time.Minute, "all pods are ready", func() bool { return p.ready() == podCount })
	return p
}

// start starts a pod with the data that it has.
func (p *pods) start(i int) {
	p.t.Helper()
	name := fmt.Sprintf("kv-%d", i)
	log, err := os.OpenFile(filepath.Join(p.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	command := exec.Command(filepath.Join(*bin, "kvd"), "serve", "--name", name, "--data-dir", filepath.Join(p.dir, name),
		"--listen-client", clientAddress(i), "--listen-peer", peerAddress(i), "--listen-http", httpAddress(i), "--peers", p.peers)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.processes[i] = command
}

// kill is kill -9.
func (p *pods) kill(i int) {
	if p.processes[i] != nil {
		_ = p.processes[i].Process.Signal(syscall.SIGKILL)
		_ = p.processes[i].Wait()
		p.processes[i] = nil
	}
}

func (p *pods) status() *kvv1.StatusResponse {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := p.admin.Status(ctx)
	if err != nil {
		return &kvv1.StatusResponse{}
	}
	return s
}

func (p *pods) ready() (n int) {
	for _, pod := range p.status().GetPods() {
		if pod.GetReady() {
			n++
		}
	}
	return n
}

// master is its number; -1: there is none.
func (p *pods) master() int {
	for i, pod := range p.status().GetPods() {
		if pod.GetRole() == kvv1.PodStatus_ROLE_MASTER {
			return i
		}
	}
	return -1
}

// history is the oldest revision that any pod keeps, and the newest one.
func (p *pods) history() (oldest, newest int64) {
	for _, pod := range p.status().GetPods() {
		if at := pod.GetOldestRevision(); oldest == 0 || at < oldest {
			oldest = at
		}
		newest = max(newest, pod.GetRevision())
	}
	return oldest, newest
}

// endpoints are what the API server is told.
func endpoints() string {
	var all []string
	for i := range podCount {
		all = append(all, "http://"+clientAddress(i))
	}
	return strings.Join(all, ",")
}
