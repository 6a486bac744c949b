package scenarios

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// found is a test that holds a scenario.
type found struct {
	name string
	// folder is the test's package, from the root of the module.
	folder string
	kind   string
}

var (
	inName   = regexp.MustCompile(`^Test(S\d\d)[A-Z]`)
	inMarker = regexp.MustCompile(`(?m)^Scenario: (S\d\d(?:, S\d\d)*)\.?$`)
)

// find reads every test of the module, and gives those of each scenario.
func find(root string) (map[string][]found, error) {
	all := map[string][]found{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "data"):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, declaration := range file.Decls {
			test, ok := declaration.(*ast.FuncDecl)
			if !ok || test.Recv != nil || !strings.HasPrefix(test.Name.Name, "Test") {
				continue
			}
			for _, id := range idsOf(test) {
				all[id] = append(all[id], found{test.Name.Name, filepath.ToSlash(folder), kindOf(file)})
			}
		}
		return nil
	})
	for _, tests := range all {
		slices.SortFunc(tests, func(a, b found) int {
			return strings.Compare(a.order(), b.order())
		})
	}
	return all, err
}

// order puts the tests of test/ first, for they are of whole pods.
func (f found) order() string {
	if whole := strings.HasPrefix(f.folder, "test/"); whole {
		return "0" + f.folder + f.name
	}
	return "1" + f.folder + f.name
}

// idsOf are the scenarios of a test, each once.
func idsOf(test *ast.FuncDecl) []string {
	var ids []string
	if m := inName.FindStringSubmatch(test.Name.Name); m != nil {
		ids = append(ids, m[1])
	}
	for _, m := range inMarker.FindAllStringSubmatch(test.Doc.Text(), -1) {
		ids = append(ids, strings.Split(m[1], ", ")...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// kindOf a file's tests: those that need Kubernetes have a build tag.
func kindOf(file *ast.File) string {
	for _, group := range file.Comments {
		for _, c := range group.List {
			if expression, err := constraint.Parse(c.Text); err == nil && c.Pos() < file.Package {
				if !expression.Eval(func(tag string) bool { return tag != "e2e" }) {
					return onKubernetes
				}
			}
		}
	}
	return processes
}

const head = `# What happens to a store in a StatefulSet

Each row is something that broke a real system, what Baton must do, and the tests that hold it. This page is written from
the tests by ` + "`make scenarios`" + `, and a test fails when it is not what they say.

**P** is tested with processes, or parts of them, by ` + "`go test`" + `; the tests of ` + "`test/scenarios`" + ` run real pods
that find each other through a DNS server of the test's own. **K** is tested on a real Kubernetes: ` + "`make e2e RUN=S01`" + ` on
the one of your KUBECONFIG, ` + "`make e2e-local RUN=S01`" + ` on one that is started for it.

Checked as well by the tests of ` + "`test/scenarios`" + ` and ` + "`test/e2e`" + ` whose cluster lives on as the same one: no acknowledged write
is lost; at most one master a term, and one cluster uuid; no reader's revision goes back; all pods are ready again with no
human within 60 s; the voters are the pods that should exist.

| id | what happens | must | | tests | how to run |
|---|---|---|---|---|---|
`

// page is docs/scenarios.md.
func page(tests map[string][]found) string {
	var b strings.Builder
	b.WriteString(head)
	for _, r := range rows {
		id, happens, must := r.id, r.happens, r.must
		for _, kind := range strings.Split(r.kinds, "") {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", id, happens, must, kind, listed(r, kind, tests[r.id]), command(r.id, kind, tests[r.id]))
			id, happens, must = "", "", ""
		}
	}
	return b.String()
}

func ofKind(kind string, tests []found) []found {
	return slices.DeleteFunc(slices.Clone(tests), func(f found) bool { return f.kind != kind })
}

func listed(r row, kind string, tests []found) string {
	var cells []string
	for _, f := range ofKind(kind, tests) {
		cells = append(cells, f.folder+": "+f.name)
	}
	if why := r.missing[kind]; why != "" {
		cells = append(cells, why)
	}
	return strings.Join(cells, "<br>")
}

// command runs a row's tests of a kind.
func command(id, kind string, tests []found) string {
	tests = ofKind(kind, tests)
	switch {
	case len(tests) == 0:
		return ""
	case kind == onKubernetes:
		return "`make e2e RUN=" + id + "`"
	}
	var folders, names []string
	for _, f := range tests {
		folders, names = append(folders, "./"+f.folder), append(names, f.name)
	}
	slices.Sort(folders)
	slices.Sort(names)
	// A bar ends a cell of the table unless it is escaped.
	return "`go test " + strings.Join(slices.Compact(folders), " ") + " -run '^(" + strings.Join(slices.Compact(names), `\|`) + ")$'`"
}

// problems are rows without a test that they ask for, reasons that are out of
// date, and tests of scenarios that do not exist.
func problems(tests map[string][]found) []string {
	var all []string
	known := map[string]bool{}
	for _, r := range rows {
		known[r.id] = true
		for _, kind := range strings.Split(r.kinds, "") {
			there, why := len(ofKind(kind, tests[r.id])) > 0, r.missing[kind]
			switch {
			case !there && why == "":
				all = append(all, fmt.Sprintf("%s has no test of kind %s: write one, or say in its row why there is none", r.id, kind))
			case there && why != "":
				all = append(all, fmt.Sprintf("%s has a test of kind %s: its row needs no reason any more", r.id, kind))
			}
		}
	}
	for id, of := range tests {
		if !known[id] {
			all = append(all, fmt.Sprintf("%s is of %s, which is no scenario: correct it, or add a row", of[0].name, id))
		}
	}
	return all
}
