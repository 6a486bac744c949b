package main

import (
	"cmp"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/batondb/baton/internal/buildinfo"
)

// bom is what is used of CycloneDX 1.6.
type bom struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp,omitempty"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn,omitempty"`
}

// product is the component that all the others are parts of.
const product = "baton"

// describe is the bill of materials of what is given to people.
func describe(version, date string, artifacts []artifact) bom {
	b := bom{
		Format: "CycloneDX", Spec: "1.6", Version: 1,
		Metadata: metadata{Timestamp: date, Component: component{Type: "application", Ref: product, Name: product, Version: version}},
	}
	libraries := map[string]component{}
	root := dependency{Ref: product}
	for _, a := range artifacts {
		root.On = append(root.On, b.add(version, a, libraries))
	}
	for _, ref := range slices.Sorted(maps.Keys(libraries)) {
		b.Components = append(b.Components, libraries[ref])
	}
	b.Dependencies = append([]dependency{root}, b.Dependencies...)
	// The serial number is of what is in it, so that the same is the same.
	var parts []string
	for _, c := range b.Components {
		parts = append(parts, c.Ref)
	}
	b.Serial = "urn:uuid:" + uuid.NewSHA1(uuid.NameSpaceURL, []byte(strings.Join(append(parts, version, date), "\n"))).String()
	return b
}

// add adds an artifact unless it is there, as the binaries of an image may be, and
// returns its reference.
func (b *bom) add(version string, a artifact, libraries map[string]component) string {
	c := component{
		Type: "application", Ref: a.name + "@sha256:" + a.digest, Name: a.name, Version: version,
		Hashes: []hash{{"SHA-256", a.digest}},
	}
	if slices.ContainsFunc(b.Components, func(there component) bool { return there.Ref == c.Ref }) {
		return c.Ref
	}
	d := dependency{Ref: c.Ref}
	if a.built == nil {
		c.Type = "container"
	} else {
		c.Properties = settings(a.built)
		d.On = link(a.built, libraries)
	}
	b.Components = append(b.Components, c)
	for _, held := range a.holds {
		d.On = append(d.On, b.add(version, held, libraries))
	}
	b.Dependencies = append(b.Dependencies, d)
	return c.Ref
}

// settings are what the toolchain was told.
func settings(built *debug.BuildInfo) []property {
	var all []property
	for _, s := range built.Settings {
		all = append(all, property{"go:" + s.Key, s.Value})
	}
	slices.SortFunc(all, func(a, b property) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// link adds the modules of a binary, and the standard library, and returns their
// references.
func link(built *debug.BuildInfo, libraries map[string]component) []string {
	modules := append(buildinfo.Modules(built), buildinfo.Module{Path: "std", Version: strings.TrimPrefix(built.GoVersion, "go")})
	var refs []string
	for _, m := range modules {
		purl := "pkg:golang/" + m.Path + "@" + m.Version
		c := component{Type: "library", Ref: purl, Name: m.Path, Version: m.Version, PURL: purl}
		if m.Sum != "" {
			c.Properties = []property{{"go:sum", m.Sum}}
		}
		libraries[purl] = c
		refs = append(refs, purl)
	}
	return refs
}
