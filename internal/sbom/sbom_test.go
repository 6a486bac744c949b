package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// built are the binaries, as make builds them.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sbom-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir, "../../cmd/kvd", "../../cmd/kvctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return dir, cmd.Run()
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := built(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

func binaries(t *testing.T) (kvd, kvctl string) {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "kvd"), filepath.Join(dir, "kvctl")
}

// linked is what the toolchain says, without this package: "path@version sum".
func linked(t *testing.T, file string) []string {
	t.Helper()
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		all = append(all, d.Path+"@"+d.Version+" "+d.Sum)
	}
	return append(all, "std@"+strings.TrimPrefix(info.GoVersion, "go")+" ")
}

// The bill names, for each binary and for those in the image, exactly what is linked
// into it.
func TestEqualsWhatIsLinked(t *testing.T) {
	kvd, kvctl := binaries(t)
	archive := filepath.Join(t.TempDir(), "baton.tar")
	pack := exec.Command("go", "run", "../image", "-o", archive, kvd, kvctl)
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	image, err := readImage(archive)
	if err != nil {
		t.Fatal(err)
	}
	b := describe("v1", "2026-01-02T15:04:05Z", []artifact{image})
	byRef := map[string]component{}
	for _, c := range b.Components {
		byRef[c.Ref] = c
	}
	files := map[string]string{"kvd": kvd, "kvctl": kvctl}
	for _, d := range b.Dependencies {
		file, ok := files[byRef[d.Ref].Name]
		if !ok {
			continue
		}
		delete(files, byRef[d.Ref].Name)
		var got []string
		for _, ref := range d.On {
			c, sum := byRef[ref], ""
			for _, p := range c.Properties {
				sum = p.Value
			}
			got = append(got, c.Name+"@"+c.Version+" "+sum)
		}
		want := linked(t, file)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("the bill of %s has\n%s\nlinked are\n%s", file, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if len(files) != 0 {
		t.Errorf("the bill of the image does not have %v", files)
	}
}

// All references resolve, each once, and the same input gives the same output.
func TestWellFormed(t *testing.T) {
	kvd, kvctl := binaries(t)
	write := func() (bom, string) {
		var all []artifact
		for _, file := range []string{kvd, kvctl, kvd} {
			a, err := readBinary(file)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, a)
		}
		b := describe("v1", "2026-01-02T15:04:05Z", all)
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return b, string(text)
	}
	b, text := write()
	if _, again := write(); again != text {
		t.Error("the same binaries give another bill")
	}
	there := map[string]int{product: 1}
	for _, c := range b.Components {
		there[c.Ref]++
	}
	for _, d := range b.Dependencies {
		for _, ref := range append(d.On, d.Ref) {
			if there[ref] != 1 {
				t.Errorf("%s is there %d times", ref, there[ref])
			}
		}
	}
}

// A file that is no binary of Go, and an archive that is no image, are errors.
func TestBadInput(t *testing.T) {
	var layer, archive bytes.Buffer
	z := gzip.NewWriter(&layer)
	pack := func(w *tar.Writer, name string, content []byte) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	inner, outer := tar.NewWriter(z), tar.NewWriter(&archive)
	pack(inner, "usr/local/bin/sh", []byte("#!/bin/sh"))
	_ = inner.Close()
	_ = z.Close()
	pack(outer, "manifest.json", []byte(`[{"Config":"c","RepoTags":["baton:latest"],"Layers":["l"]}]`))
	pack(outer, "l", layer.Bytes())
	_ = outer.Close()
	file := filepath.Join(t.TempDir(), "file")
	for _, content := range [][]byte{nil, []byte("text"), archive.Bytes(), archive.Bytes()[:700]} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if a, err := readImage(file); err == nil {
			t.Errorf("%d bytes are an image: %+v", len(content), a)
		}
		if a, err := readBinary(file); err == nil {
			t.Errorf("%d bytes are a binary: %+v", len(content), a)
		}
	}
}

// Years after which a module must have a reason to be linked as it is.
const maxYears = 3

// aged are modules that are older, and why they may be: they are small and finished,
// or come with another module, which is not.
var aged = map[string]string{
	"github.com/armon/go-metrics":             "hashicorp/raft-wal",
	"github.com/benbjohnson/immutable":        "hashicorp/raft-wal",
	"github.com/beorn7/perks":                 "prometheus/client_golang",
	"github.com/coreos/etcd":                  "hashicorp/raft-wal: its file utilities",
	"github.com/coreos/go-semver":             "etcd",
	"github.com/coreos/go-systemd":            "coreos/etcd",
	"github.com/coreos/pkg":                   "coreos/etcd",
	"github.com/davecgh/go-spew":              "k8s.io/apimachinery",
	"github.com/fatih/color":                  "hashicorp/go-hclog",
	"github.com/gogo/protobuf":                "etcd and k8s.io/apimachinery",
	"github.com/hashicorp/go-immutable-radix": "hashicorp/go-metrics",
	"github.com/hashicorp/golang-lru":         "hashicorp/go-immutable-radix",
	"github.com/json-iterator/go":             "k8s.io/apimachinery",
	"github.com/mattn/go-colorable":           "fatih/color",
	"github.com/mattn/go-isatty":              "fatih/color",
	"github.com/modern-go/concurrent":         "json-iterator",
	"github.com/munnerz/goautoneg":            "prometheus/common",
	"github.com/x448/float16":                 "fxamacker/cbor",
	"gopkg.in/inf.v0":                         "k8s.io/apimachinery",
}

// It says which linked modules were more than a year old when the newest of them was
// made, and fails for those that are older than maxYears without a reason. No clock:
// the same source always passes or fails.
func TestAgeOfModules(t *testing.T) {
	text, err := os.ReadFile("testdata/modules.txt")
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]time.Time{}
	var newest time.Time
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		at, err := time.Parse(time.DateOnly, fields[0])
		if err != nil || len(fields) != 3 {
			t.Fatalf("%q: %v", line, err)
		}
		made[fields[1]+"@"+fields[2]] = at
		if at.After(newest) {
			newest = at
		}
	}
	linkedNow := map[string]bool{}
	kvd, kvctl := binaries(t)
	for _, module := range append(linked(t, kvd), linked(t, kvctl)...) {
		module, _, _ = strings.Cut(module, " ")
		if path, _, _ := strings.Cut(module, "@"); path != "std" {
			linkedNow[module] = true
		}
	}
	for module := range linkedNow {
		at, ok := made[module]
		if !ok {
			t.Errorf("%s is not in testdata/modules.txt: run make modules", module)
			continue
		}
		delete(made, module)
		path, _, _ := strings.Cut(module, "@")
		years := newest.Sub(at).Hours() / 24 / 365.25
		switch why := aged[path]; {
		case years <= 1:
		case years <= maxYears || why != "":
			t.Logf("%4.1f years  %s  %s", years, module, why)
		default:
			t.Errorf("%s is %.1f years old: take a newer version, do without it, or say in aged why not", module, years)
		}
	}
	if len(made) != 0 {
		t.Errorf("testdata/modules.txt has modules that are not linked any more: run make modules: %v", made)
	}
}
