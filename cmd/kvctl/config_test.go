package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/batondb/baton/client/clienttest"
)

// The settings come from flags, from the environment, and from a context, in this
// order; the file is its owner's alone.
func TestContexts(t *testing.T) {
	fake, err := clienttest.Start(1)
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	file := filepath.Join(t.TempDir(), "new", "config.yaml")
	env := map[string]string{"BATON_CONFIG": file}
	run := func(line string) string {
		t.Helper()
		return runKvctl(fake.Endpoints(), strings.Fields(line), "", func(a *app) {
			a.env = func(name string) string { return env[name] }
		})
	}
	for _, step := range []struct{ line, want string }{
		{"config get-contexts", "CURRENT  NAME  ENDPOINTS  TLS\n"},
		{"config set-context here --endpoints " + fake.Endpoints()[0], "context here is in"},
		{"put k v", "2\n"}, // the first context is the current one
		{"config set-context away --endpoints https://127.0.0.1:1 --cacert ca.crt", "context away is in"},
		{"config set-context away --key k", "--cert and --key belong together"},
		{"config set-context away --tls-server-name kv-client", "context away is in"},
		{"config get-contexts", "         away  https://127.0.0.1:1  yes\n"},
		{"get k --context nowhere", `there is no context "nowhere"`},
		{"get k --context away", "ca.crt: no such file"},
		{"get k --context away --cacert= --tls-server-name= --endpoints " + fake.Endpoints()[0], "v\n"},
		{"config use-context nowhere", `there is no context "nowhere"`},
		{"config use-context away", "away is the current context"},
		{"config view", "tls-server-name: kv-client"},
		{"version", "kvctl dev"}, // needs no cluster
		{"config delete-context away", ""},
		{"config view", "contexts:\n- context:\n    endpoints:\n    - 127.0.0.1:7400\n  name: here\n"},
	} {
		if got := run(step.line); !strings.Contains(got, step.want) {
			t.Errorf("kvctl %s printed\n%swant\n%s", step.line, got, step.want)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	env["BATON_CONTEXT"] = "nowhere"
	if got := run("get k"); !strings.Contains(got, "exit 2") {
		t.Error(got)
	}
	env = map[string]string{"BATON_CONFIG": file, "BATON_ENDPOINTS": "127.0.0.1:1", "BATON_CERT": "x"}
	if got := run("get k"); !strings.Contains(got, "--cert and --key") {
		t.Error(got)
	}
	if err := os.WriteFile(file, []byte("contexts:\n- name: a\n  context: {cacrt: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run("get k"); !strings.Contains(got, `unknown field "cacrt"`) {
		t.Error(got)
	}
}

// Each kind of mismatch says what to do.
func TestTLSSteps(t *testing.T) {
	fake, err := clienttest.Start(1)
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	got := runKvctl(fake.Endpoints(), []string{"get", "k", "--endpoints", "https://" + fake.Endpoints()[0], "--timeout", "300ms"}, "", func(*app) {})
	if !strings.Contains(got, "the server does not speak TLS") || !strings.Contains(got, "Leave out --cacert") || !strings.Contains(got, "exit 6") {
		t.Error(got)
	}
}
