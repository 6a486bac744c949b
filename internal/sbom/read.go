package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"
)

// artifact is a file that is given to people.
type artifact struct {
	name string
	// digest is the SHA-256 of a binary's content, or of an image's configuration,
	// which is the image's identity.
	digest string
	// built is what a binary was built from; nil: it is an image.
	built *debug.BuildInfo
	// holds are an image's binaries.
	holds []artifact
}

func readBinary(file string) (artifact, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return artifact{}, err
	}
	return binary(path.Base(file), content)
}

func binary(name string, content []byte) (artifact, error) {
	built, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		return artifact{}, fmt.Errorf("%s: %w", name, err)
	}
	return artifact{name: name, digest: sum(content), built: built}, nil
}

func sum(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}

// readImage reads a docker-archive.
func readImage(file string) (artifact, error) {
	archive, err := os.ReadFile(file)
	if err != nil {
		return artifact{}, err
	}
	files := map[string][]byte{}
	if err := untar(bytes.NewReader(archive), func(name string, content []byte) error { files[name] = content; return nil }); err != nil {
		return artifact{}, err
	}
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 || len(manifest[0].RepoTags) != 1 {
		return artifact{}, errors.New("it is not an archive of one image")
	}
	image := artifact{name: manifest[0].RepoTags[0], digest: sum(files[manifest[0].Config])}
	for _, layer := range manifest[0].Layers {
		z, err := gzip.NewReader(bytes.NewReader(files[layer]))
		if err != nil {
			return artifact{}, err
		}
		err = untar(z, func(name string, content []byte) error {
			b, err := binary(path.Base(name), content)
			image.holds = append(image.holds, b)
			return err
		})
		if err != nil {
			return artifact{}, err
		}
	}
	return image, nil
}

// untar calls a function for each file that is not a directory.
func untar(r io.Reader, each func(name string, content []byte) error) error {
	t := tar.NewReader(r)
	for {
		header, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case header.Typeflag == tar.TypeDir:
			continue
		}
		content, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		if err := each(header.Name, content); err != nil {
			return err
		}
	}
}
