package main

import (
	"bytes"
	"encoding/json"
	"runtime"
	"slices"
	"testing"

	"github.com/batondb/baton/internal/buildinfo"
)

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	c := command()
	c.SetOut(&out)
	c.SetArgs([]string{"version", "-o", "json"})
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	var info buildinfo.Info
	if err := json.Unmarshal(out.Bytes(), &info); err != nil {
		t.Fatal(err)
	}
	bolt := func(m buildinfo.Module) bool { return m.Path == "go.etcd.io/bbolt" && m.Version != "" && m.Sum != "" }
	if info.Version != version || info.Go != runtime.Version() || info.Platform != runtime.GOOS+"/"+runtime.GOARCH || !slices.ContainsFunc(info.Modules, bolt) {
		t.Errorf("%+v", info)
	}
	c.SetArgs([]string{"version", "-o", "xml"})
	if err := c.Execute(); err == nil {
		t.Error("xml was printed")
	}
}
