package scenarios

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var write = flag.Bool("write", false, "write docs/scenarios.md")

func TestPage(t *testing.T) {
	root := filepath.Join("..", "..")
	tests, err := find(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems(tests) {
		t.Error(problem)
	}
	path, want := filepath.Join(root, "docs", "scenarios.md"), page(tests)
	if *write {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != want {
		t.Errorf("docs/scenarios.md is not what the tests say (%v): run make scenarios", err)
	}
}

// The generator sees what it must: names, markers, kinds, and what is missing.
func TestFind(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"a_test.go": "package a\n// It does.\n//\n// Scenario: S05, S07\nfunc TestIt(t *testing.T) {}\n\n// S08: only prose.\nfunc TestOther(t *testing.T) {}\n",
		"b_test.go": "//go:build e2e\n\npackage a\nfunc TestS01Boot(t *testing.T) {}\n",
		"c_test.go": "//go:build linux\n\npackage a\nfunc TestS01Boots(t *testing.T) {}\nfunc TestS99No(t *testing.T) {}\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests, err := find(root)
	if err != nil {
		t.Fatal(err)
	}
	if got := tests["S01"]; len(got) != 2 || got[0] != (found{"TestS01Boot", ".", onKubernetes}) || got[1] != (found{"TestS01Boots", ".", processes}) {
		t.Error(got)
	}
	if len(tests["S05"]) != 1 || len(tests["S07"]) != 1 || len(tests["S08"]) != 0 {
		t.Error(tests)
	}
	found := strings.Join(problems(tests), "\n")
	for _, want := range []string{"S02 has no test of kind P", "S05 has no test of kind K", "S99"} {
		if !strings.Contains(found, want) {
			t.Errorf("it does not say: %s", want)
		}
	}
	if slices.ContainsFunc(problems(tests), func(p string) bool { return strings.HasPrefix(p, "S01") }) {
		t.Error("S01 is missed")
	}
}
