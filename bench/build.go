package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// buildEtcd builds etcd's real server from its module.
func buildEtcd(ctx context.Context, dir string) (*Etcd, error) {
	binary := filepath.Join(dir, "bin", "etcd")
	if err := goBuild(ctx, ".", binary, "./etcd"); err != nil {
		return nil, err
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	e := &Etcd{binary: binary, version: "of unknown version"}
	for _, module := range info.Deps {
		if module.Path == "go.etcd.io/etcd/server/v3" {
			e.version = module.Version
		}
	}
	e.version += ", built with " + info.GoVersion
	return e, nil
}

// buildBaton builds kvd from the project that this folder is in.
func buildBaton(ctx context.Context, dir string) (*Baton, error) {
	binary := filepath.Join(dir, "bin", "kvd")
	if err := goBuild(ctx, "..", binary, "./cmd/kvd"); err != nil {
		return nil, err
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	return &Baton{binary: binary, version: commit(ctx) + ", built with " + info.GoVersion}, nil
}

func goBuild(ctx context.Context, dir, output, pkg string) error {
	command := exec.CommandContext(ctx, "go", "build", "-o", output, pkg)
	command.Dir = dir
	if raw, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, bytes.TrimSpace(raw))
	}
	return nil
}

// commit names the source that kvd is built from.
func commit(ctx context.Context) string {
	command := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--tags")
	command.Dir = ".."
	raw, err := command.Output()
	if err != nil {
		return "of an unknown commit"
	}
	return "commit " + strings.TrimSpace(string(raw))
}
