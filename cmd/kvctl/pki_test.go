package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/batondb/baton/internal/pki"
)

// What is issued is what a pod takes, and each mistake leaves everything as it was.
func TestPKI(t *testing.T) {
	t.Chdir(t.TempDir())
	kvctl := func(line string) string {
		return runKvctl(nil, strings.Fields(line), "", func(*app) {})
	}
	wants := func(line, part string) {
		t.Helper()
		if got := kvctl(line); !strings.Contains(got, part) {
			t.Errorf("%s: %q, want %q", line, got, part)
		}
	}
	wants("pki pod kv-0", "kvctl pki init")
	wants("pki init --days 0", "exit 2")
	wants("pki init", "ca/ca.crt\tCA baton\tbaton\t")
	wants("pki init", "is there already")
	wants("pki init --ca next --name next", "CA next")
	wants("pki pod kv", "is not the name of a pod")
	wants("pki pod kv-0 kv-1 --service kv --namespace shop --spiffe spiffe://e.org/kv", "certs/kv-1/tls.crt\tkv-1.kv.shop.svc,kv-1.kv,kv-1,spiffe://e.org/kv/kv-1\tbaton\t")
	kv0, err := pki.Open("certs/kv-0", pki.Options{Pod: "kv-0"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Open("certs/kv-0", pki.Options{Pod: "kv-1"}); err == nil {
		t.Error("kv-1 takes the certificate of kv-0")
	}
	// The way from one CA to the next one.
	wants("pki pod kv-0 --ca next --service kv --namespace shop --trust ca/ca.crt", "\t364\n")
	if err := kv0.Reload(); err != nil || len(kv0.Material().CAs) != 2 {
		t.Errorf("%v, %d CAs", err, len(kv0.Material().CAs))
	}
	wants("pki pod kv-0 --ca next --trust ca/ca.key", "--trust ca/ca.key")
	wants("pki server localhost 127.0.0.1 --out server", "localhost,127.0.0.1")
	wants("pki client alice", "certs/alice/tls.crt\talice\t")
	wants("pki client ../alice", "set --out")
	wants("pki client web --uri web", "exit 2")
	wants("pki client web --uri spiffe://e.org/web", "spiffe://e.org/web")
	wants("pki show certs/kv-0 server -o json", `{"file":"certs/kv-0/ca.crt","subject":"next","names":[],"issuer":"next","ca":true`)
	wants("pki show nothing", "no such file")
	wants("pki show .", "has neither tls.crt nor ca.crt")
	wants("pki show ca/ca.key", "ca/ca.key: ")
	for _, path := range []string{"ca/ca.key", "certs/kv-0/tls.key"} {
		if info, err := os.Stat(filepath.Clean(path)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}
