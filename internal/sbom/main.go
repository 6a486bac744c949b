package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run() error {
	version := flag.String("version", "dev", "of Baton")
	date := flag.String("date", "", "the commit's time, RFC 3339")
	out := flag.String("o", "baton.cdx.json", "the file to write")
	flag.Parse()
	if flag.NArg() == 0 {
		return errors.New("name the binaries, and the archive of the image")
	}
	var artifacts []artifact
	for _, file := range flag.Args() {
		read := readBinary
		if strings.HasSuffix(file, ".tar") {
			read = readImage
		}
		a, err := read(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		artifacts = append(artifacts, a)
	}
	text, err := json.MarshalIndent(describe(*version, *date, artifacts), "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(*out, append(text, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Println(*out)
	return nil
}
