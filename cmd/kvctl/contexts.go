package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/batondb/baton/internal/wholefile"
)

// contexts is the configuration file. It says where things are: there is no secret
// in it, and none is ever copied into it.
type contexts struct {
	Current  string            `json:"current-context,omitempty"`
	Contexts []namedConnection `json:"contexts,omitempty"`
}

type namedConnection struct {
	Name       string     `json:"name"`
	Connection connection `json:"context"`
}

// maxContextsBytes: what is larger is another file.
const maxContextsBytes = 1 << 20

// find returns nil if there is no such context.
func (c *contexts) find(name string) *connection {
	i := slices.IndexFunc(c.Contexts, func(n namedConnection) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Contexts[i].Connection
}

// contextsPath is empty if nothing says where a person's files are.
func (a *app) contextsPath() string {
	if path := a.env("BATON_CONFIG"); path != "" {
		return path
	}
	if dir := a.env("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "baton", "config.yaml")
	}
	if home := a.env("HOME"); home != "" {
		return filepath.Join(home, ".config", "baton", "config.yaml")
	}
	return ""
}

// readContexts reads the file; without one there are no contexts.
func (a *app) readContexts() (*contexts, error) {
	c := &contexts{}
	path := a.contextsPath()
	if path == "" {
		return c, nil
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // It was only read.
	text, err := io.ReadAll(io.LimitReader(file, maxContextsBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxContextsBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes: it is not a configuration of kvctl", path, maxContextsBytes)
	}
	if err := yaml.UnmarshalStrict(text, c); err != nil {
		return nil, fmt.Errorf("%s is not a configuration of kvctl: %w", path, err)
	}
	return c, nil
}

// writeContexts replaces the file in one step.
func (a *app) writeContexts(c *contexts) error {
	path := a.contextsPath()
	if path == "" {
		return errors.New("where the configuration file should be is not known: set BATON_CONFIG")
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return wholefile.Write(path, text) // What is inside is nobody else's to read, or to change.
}
