package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// page is docs/security.md as a person follows it: in a folder with deploy/ in it,
// with namespaces of the test's own.
type page struct {
	t    *testing.T
	text string
	// root has bin, deploy and docs in it; dir is where the commands run.
	root, dir string
	namespace string
	rename    func(text string) string
}

var (
	consoleBlock = regexp.MustCompile("(?s)```console\n(.*?)```")
	pageWords    = regexp.MustCompile(`\b(databases|shop|cluster\.local)\b|image: baton:latest`)
)

// openPage makes the folder. databases and shop are what these namespaces are called
// here; current is the one of them that commands without one are for.
func openPage(t *testing.T, databases, shop, current string) *page {
	t.Helper()
	deploy, err := filepath.Abs(manifest(t, "."))
	if err != nil {
		t.Fatal(err)
	}
	p := &page{t: t, root: filepath.Dir(deploy), dir: t.TempDir(), namespace: current}
	names := map[string]string{"databases": databases, "shop": shop, "cluster.local": *domain, "image: " + defaultImage: "image: " + *image}
	p.rename = func(text string) string {
		return pageWords.ReplaceAllStringFunc(text, func(word string) string { return names[word] })
	}
	text, err := os.ReadFile(filepath.Join(p.root, "docs", "security.md"))
	if err != nil {
		t.Fatalf("%v: the folder docs has to be beside deploy", err)
	}
	p.text = string(text)
	copied := filepath.Join(p.dir, "deploy")
	if err := os.CopyFS(copied, os.DirFS(deploy)); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(copied, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(p.rename(string(text))), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// file is what is in a file of the folder.
func (p *page) file(name string) []byte {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

// commands are what the page says to type after a text, up to the next heading: a
// list for each block.
func (p *page) commands(after string) (blocks [][]string) {
	p.t.Helper()
	_, part, ok := strings.Cut(p.text, after)
	if !ok {
		p.t.Fatalf("docs/security.md has no %q", after)
	}
	part, _, _ = strings.Cut(part, "\n## ")
	for _, block := range consoleBlock.FindAllStringSubmatch(part, -1) {
		var commands []string
		for line := range strings.Lines(block[1]) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				commands = append(commands, p.rename(strings.TrimSpace(command)))
			}
		}
		blocks = append(blocks, commands)
	}
	if len(blocks) == 0 {
		p.t.Fatalf("docs/security.md says nothing to type after %q", after)
	}
	return blocks
}

// run types commands, one after the other, in one shell whose current namespace is
// Baton's, and returns what they print.
func (p *page) run(commands ...string) string {
	p.t.Helper()
	script := "set -e; shopt -s expand_aliases\n" +
		`kubectl() { command kubectl --namespace "$NAMESPACE" "$@"; }` + "\n" + strings.Join(commands, "\n")
	cmd := exec.CommandContext(p.t.Context(), "bash", "-c", script)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "NAMESPACE="+p.namespace, fmt.Sprintf("PATH=%s:%s", filepath.Join(p.root, "bin"), os.Getenv("PATH")))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	from := time.Now()
	err := cmd.Run()
	p.t.Logf("%s\n%s(%v)", strings.Join(commands, "\n"), &out, time.Since(from).Round(100*time.Millisecond))
	if err != nil {
		p.t.Fatal(err)
	}
	return out.String()
}
