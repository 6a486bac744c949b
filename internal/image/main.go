package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// maxBytes is what a node may have to pull. An image that is larger has taken in
// something that was not meant to be in it.
const maxBytes = 25 << 20

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		p    image
		date string
		out  string
	)
	flag.StringVar(&p.tag, "tag", "baton:latest", "the image's name")
	flag.StringVar(&p.arch, "arch", "amd64", "the binaries' GOARCH")
	flag.StringVar(&date, "date", "", "the commit's time, RFC 3339: the only time in the image (default: 1970)")
	flag.StringVar(&p.version, "version", "dev", "for the image's labels")
	flag.StringVar(&p.commit, "commit", "", "for the image's labels")
	flag.StringVar(&out, "o", "baton.tar", "the archive to write")
	flag.Parse()
	if flag.NArg() == 0 {
		return fmt.Errorf("name the binaries to pack")
	}
	p.binaries = flag.Args()
	p.created = time.Unix(0, 0).UTC()
	if date != "" {
		var err error
		if p.created, err = time.Parse(time.RFC3339, date); err != nil {
			return fmt.Errorf("-date: %w", err)
		}
	}
	archive, digest, err := p.pack()
	if err != nil {
		return err
	}
	if len(archive) > maxBytes {
		return fmt.Errorf("the image has %d bytes, more than %d: find out what made it grow", len(archive), maxBytes)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(out, archive, 0o644); err != nil {
		return err
	}
	fmt.Printf("%s: %s, sha256:%s, %.1f MB to pull\n", out, p.tag, digest, float64(len(archive))/1e6)
	return nil
}
