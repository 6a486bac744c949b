package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"
)

// nonroot is the user and group that many base images call so.
const nonroot = "65532:65532"

// image is what is to be packed.
type image struct {
	tag      string
	arch     string
	version  string
	commit   string
	created  time.Time
	binaries []string
}

// pack gives a docker-archive and the digest of its configuration, which is the
// image's identity.
func (p *image) pack() (archive []byte, digest string, err error) {
	layer, err := p.layer()
	if err != nil {
		return nil, "", err
	}
	var compressed bytes.Buffer
	z, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	if err != nil {
		return nil, "", err
	}
	if _, err := z.Write(layer); err != nil {
		return nil, "", err
	}
	if err := z.Close(); err != nil {
		return nil, "", err
	}
	config, err := json.Marshal(p.config(sum(layer)))
	if err != nil {
		return nil, "", err
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": sum(config) + ".json", "RepoTags": []string{p.tag}, "Layers": []string{"layer.tar.gz"},
	}})
	if err != nil {
		return nil, "", err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, file := range []struct {
		name string
		data []byte
	}{
		{"manifest.json", manifest}, {sum(config) + ".json", config}, {"layer.tar.gz", compressed.Bytes()},
	} {
		if err := p.add(w, file.name, file.data, 0o644); err != nil {
			return nil, "", err
		}
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	return out.Bytes(), sum(config), nil
}

// layer is the file system: the binaries and the directories above them.
func (p *image) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{"usr/", "usr/local/", "usr/local/bin/"} {
		header := &tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: p.created}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	for _, binary := range p.binaries {
		data, err := os.ReadFile(binary)
		if err != nil {
			return nil, err
		}
		if err := p.add(w, path.Join("usr/local/bin", filepath.Base(binary)), data, 0o755); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// add writes a file of root's, with the image's own time.
func (p *image) add(w *tar.Writer, name string, data []byte, mode int64) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: p.created}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// config is the image's configuration; encoding/json sorts the keys.
func (p *image) config(layer string) map[string]any {
	return map[string]any{
		"architecture": p.arch,
		"os":           "linux",
		"created":      p.created.UTC().Format(time.RFC3339),
		"config": map[string]any{
			"User":         nonroot,
			"Entrypoint":   []string{"/usr/local/bin/kvd"},
			"Cmd":          []string{"serve"},
			"Env":          []string{"PATH=/usr/local/bin"},
			"ExposedPorts": map[string]any{"7400/tcp": struct{}{}, "7401/tcp": struct{}{}, "7402/tcp": struct{}{}},
			"Labels": map[string]string{
				"org.opencontainers.image.title":    "baton",
				"org.opencontainers.image.version":  p.version,
				"org.opencontainers.image.revision": p.commit,
			},
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + layer}},
		"history": []map[string]any{{"created": p.created.UTC().Format(time.RFC3339), "created_by": "internal/image"}},
	}
}

func sum(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }
