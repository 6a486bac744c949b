package main

import (
	"context"
	"errors"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// parse makes a configuration of flags, as serve does.
func parse(t *testing.T, args ...string) (config, error) {
	t.Helper()
	var c config
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c.register(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := fromEnvironment(flags); err != nil {
		return c, err
	}
	return c, c.complete()
}

func TestGoodConfigurations(t *testing.T) {
	c, err := parse(t, "--name", "kv-1", "--peers", "kv-0=10.0.0.1:7401, kv-1=db-1.example:7401")
	if err != nil {
		t.Fatal(err)
	}
	if c.host() != "db-1.example" || len(c.peers) != 2 {
		t.Errorf("%+v", c)
	}
	if address, err := newResolver(&c).resolve("kv-0"); err != nil || address != "10.0.0.1:7401" {
		t.Error(address, err)
	}
	c, err = parse(t, "--name", "kv-10", "--service", "kv.ns.svc")
	if err != nil || c.host() != "kv-10.kv.ns.svc" {
		t.Error(c.host(), err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("BATON_NAME", "kv-3")
	t.Setenv("BATON_SERVICE", "kv")
	t.Setenv("BATON_LISTEN_CLIENT", ":1")
	c, err := parse(t, "--listen-client", ":2")
	if err != nil || c.name != "kv-3" || c.service != "kv" || c.listenClient != ":2" {
		t.Errorf("%+v %v", c, err)
	}
	t.Setenv("BATON_KEEP_AGE", "soon")
	if _, err := parse(t); err == nil || !strings.Contains(err.Error(), "BATON_KEEP_AGE") {
		t.Error(err)
	}
}

// Each refusal is one line that names what to change.
func TestBadConfigurations(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"--name", "kv"}, "--name"},
		{[]string{"--name", "kv-"}, "--name"},
		{[]string{"--name", "kv/-1"}, "--name"},
		{[]string{"--name", "kv-0", "--data-dir", file}, "--data-dir"},
		{[]string{"--name", "kv-0", "--data-dir", ""}, "--data-dir"},
		{[]string{"--name", "kv-0", "--listen-http", "7402"}, "--listen-http"},
		{[]string{"--name", "kv-0", "--log-level", "loud"}, "--log-level"},
		{[]string{"--name", "kv-0"}, "--service"},
		{[]string{"--name", "kv-0", "--peers", "kv-0"}, "--peers"},
		{[]string{"--name", "kv-0", "--peers", "kv-0=:7401"}, "--peers"},
		{[]string{"--name", "kv-0", "--peers", "kv-0=a:1,kv-0=b:1"}, "twice"},
		{[]string{"--name", "kv-0", "--peers", "kv-1=a:1"}, "does not name this pod"},
	} {
		_, err := parse(t, test.args...)
		if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v", test.args, err)
		}
	}
}

func TestServiceFromHosts(t *testing.T) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	text := "127.0.0.1 localhost\n10.1.2.3\tkv-0.kv.ns.svc.cluster.local\tkv-0\n"
	if err := os.WriteFile(hosts, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serviceFromHosts(hosts, "kv-0"); got != "kv.ns.svc.cluster.local" {
		t.Error(got)
	}
	if got := serviceFromHosts(hosts, "kv-1"); got != "" {
		t.Error(got)
	}
}

// A name that does not exist is told apart from a DNS server that does not answer.
func TestResolver(t *testing.T) {
	c := config{service: "kv", listenPeer: ":7401"}
	r := newResolver(&c)
	asked := 0
	r.lookup = func(_ context.Context, host string) ([]string, error) {
		asked++
		if host != "kv-4.kv" {
			t.Error(host)
		}
		return nil, &net.DNSError{IsNotFound: true}
	}
	for range 2 {
		address, err := r.resolve("kv-4")
		var missing *net.DNSError
		if address != "kv-4.kv:7401" || !errors.As(err, &missing) || !missing.IsNotFound {
			t.Error(address, err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times at one moment", asked)
	}
}

// Scenario: S33
func TestMemoryLimit(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) string {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	self := write("self", "0::/pods/kv\n")
	if got := memoryLimit(self, root); got != math.MaxInt64 {
		t.Error(got)
	}
	write("pods/memory.max", "1000\n")
	write("pods/kv/memory.max", "max\n")
	if got := memoryLimit(self, root); got != 1000 {
		t.Error(got)
	}
	write("pods/kv/memory.max", "500\n")
	if got := memoryLimit(self, root); got != 500 {
		t.Error(got)
	}
}

func TestDevPorts(t *testing.T) {
	c := devConfig{nodes: 3, dataDir: "d", basePort: 7400, logLevel: "info"}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	args := strings.Join(c.serve("kvd", 2).Args, " ")
	for _, want := range []string{"--name kv-2", "--listen-client 127.0.0.1:7420", "--listen-http 127.0.0.1:7422", "kv-1=127.0.0.1:7411"} {
		if !strings.Contains(args, want) {
			t.Errorf("%q is not in %q", want, args)
		}
	}
	for _, bad := range []devConfig{{nodes: 0, dataDir: "d", basePort: 7400}, {nodes: 3, dataDir: "d", basePort: 65530}, {nodes: 3, basePort: 7400}} {
		if bad.check() == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestPrefixedLines(t *testing.T) {
	var out strings.Builder
	p := &prefixed{terminal: &lines{out: &out}, name: "kv-0"}
	for _, part := range []string{"one", " line\ntwo\nth", "ree\n"} {
		if _, err := p.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if want := "kv-0 | one line\nkv-0 | two\nkv-0 | three\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
}

// The peer port is open to nobody who has no certificate, unless nobody else can
// reach it.
func TestPeerConfigurations(t *testing.T) {
	loopback := []string{"--name", "kv-0", "--listen-peer", "127.0.0.1:7401", "--peers", "kv-0=127.0.0.1:7401,kv-1=[::1]:7401"}
	for _, test := range []struct {
		args []string
		says string // empty: it is accepted
	}{
		{loopback, "--certs"},
		{[]string{"--name", "kv-0", "--service", "kv"}, "--certs"},
		{append(loopback, "--certs-migrate"), "--certs"},
		{append(loopback, "--insecure-peers"), ""},
		{append(loopback, "--certs", "c"), ""},
		{append(loopback, "--certs", "c", "--insecure-peers"), "--insecure-peers"},
		{append(loopback, "--insecure-peers", "--listen-peer", ":7401"), "--listen-peer"},
		{append(loopback, "--insecure-peers", "--peers", "kv-0=127.0.0.1:7401,kv-1=10.0.0.1:7401"), "kv-1 is 10.0.0.1:7401"},
		{append(loopback, "--insecure-peers", "--peers", "kv-0=127.0.0.1:7401,kv-1=db:7401"), "kv-1 is db:7401"},
		{[]string{"--name", "kv-0", "--service", "kv", "--insecure-peers"}, "--peers"},
	} {
		c, err := parse(t, test.args...)
		if err != nil {
			t.Fatal(err)
		}
		err = c.checkPeers()
		if test.says == "" && err == nil {
			continue
		}
		if err == nil || test.says == "" || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v, want %q", test.args, err, test.says)
		}
	}
	// Certificates that cannot be used are refused before there is a data directory.
	c, err := parse(t, append(loopback, "--certs", filepath.Join(t.TempDir(), "nothing"), "--data-dir", filepath.Join(t.TempDir(), "data"))...)
	if err != nil {
		t.Fatal(err)
	}
	if err := serve(t.Context(), c); err == nil || !strings.Contains(err.Error(), "--certs") {
		t.Error(err)
	}
	if _, err := os.Stat(c.dataDir); err == nil {
		t.Error("the data directory was made")
	}
}
