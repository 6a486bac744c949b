package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// untar reads the files of an archive.
func untar(t *testing.T, archive io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(archive)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || header.Mode&0o022 != 0 {
			t.Errorf("%s can be changed by others than root: %+v", header.Name, header)
		}
		if files[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func binary(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

// The same binaries, written at another time in another place with other
// permissions, give the same image.
func TestReproducible(t *testing.T) {
	first := image{tag: "baton:latest", arch: "amd64", version: "v1", created: time.Unix(1000, 0), binaries: []string{binary(t, "kvd", "one"), binary(t, "kvctl", "two")}}
	again := first
	again.binaries = []string{binary(t, "kvd", "one"), binary(t, "kvctl", "two")}
	for _, file := range again.binaries {
		if err := os.Chtimes(file, time.Unix(5, 0), time.Unix(5, 0)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a, digest, err := first.pack()
	if err != nil {
		t.Fatal(err)
	}
	b, sameDigest, err := again.pack()
	if err != nil {
		t.Fatal(err)
	}
	if digest != sameDigest || !bytes.Equal(a, b) {
		t.Errorf("two packs differ: %s and %s", digest, sameDigest)
	}
	again.binaries[1] = binary(t, "kvctl", "three")
	if _, other, err := again.pack(); err != nil || other == digest {
		t.Errorf("other content has the same digest %s (%v)", other, err)
	}
}

func TestImage(t *testing.T) {
	p := image{tag: "baton:latest", arch: "arm64", version: "v1", created: time.Unix(1000, 0), binaries: []string{binary(t, "kvd", "one")}}
	archive, digest, err := p.pack()
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, bytes.NewReader(archive))
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatal(manifest, err)
	}
	if manifest[0].Config != digest+".json" || manifest[0].RepoTags[0] != "baton:latest" {
		t.Errorf("%+v", manifest)
	}
	var config struct {
		Architecture, OS string
		Config           struct{ User string }
		RootFS           struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(files[manifest[0].Layers[0]]))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || config.OS != "linux" || config.Config.User != nonroot ||
		config.RootFS.DiffIDs[0] != "sha256:"+sum(layer) {
		t.Errorf("%+v, the layer is %s", config, sum(layer))
	}
	if got := untar(t, bytes.NewReader(layer))["usr/local/bin/kvd"]; string(got) != "one" {
		t.Errorf("kvd has %q", got)
	}
}
