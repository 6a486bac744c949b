package main

import (
	"context"
	"debug/buildinfo"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/batondb/baton/test/cluster"
)

// buildEtcd builds etcd's real server from its module.
func buildEtcd(ctx context.Context, dir string) (*Etcd, error) {
	binary, err := cluster.Build(ctx, filepath.Join(dir, "bin"), "./etcd")
	if err != nil {
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
	binary, err := cluster.Build(ctx, filepath.Join(dir, "bin"), cluster.Kvd)
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	return &Baton{binary: binary, version: commit(ctx) + ", built with " + info.GoVersion}, nil
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
