package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/batondb/baton"

const (
	// maxFunctionLines: what does not fit on two screens is two functions.
	maxFunctionLines = 70
	// maxTestFunctionLines: a test may hold its table of cases.
	maxTestFunctionLines = 100
	// maxFileLines is "about 400": one type and its methods.
	maxFileLines = 440
	// maxTestFileLines: a table of cases is read differently.
	maxTestFileLines = 700
)

const parts = "replication/internal/"

// allowed are the imports within the module: for a package, and those below it
// that have no entry of their own, the entries that it may import beside its own.
// Every import goes down. What is not listed may import nothing.
var allowed = map[string][]string{
	"cmd/kvd":           {"internal/buildinfo", "internal/pki", "recovery", "server", "server/audit", "server/etcd", "replication", "replication/node", "store", "kubernetes", "kubernetes/place", "kubernetes/issuer", "kubernetes/tokens", "proto"},
	"cmd/kvctl":         {"internal/buildinfo", "internal/caller", "internal/pki", "internal/wholefile", "client", "store", "replication", "replication/node", "proto"}, // store, node: `snapshot verify` and `restore` work on files
	"recovery":          {"kubernetes", "replication", "replication/node", "internal/sleep"},
	"kubernetes/place":  {"kubernetes", "replication", "replication/node", "internal/sleep"},
	"kubernetes":        {},
	"kubernetes/issuer": {"kubernetes", "internal/pki", "internal/sleep"},
	"kubernetes/tokens": {"internal/caller"},
	"server/audit":      {"internal/caller", "internal/seldom"},
	"server":            {"server/audit", "replication", "store", "proto", "internal/access", "internal/caller", "internal/inbound", "internal/pki", "internal/masterstream", "internal/quota", "internal/refusal", "internal/seldom", "internal/sleep"},
	"server/etcd":       {"server", "replication", "store", "proto", "internal/access", "internal/caller", "internal/refusal", "internal/sleep"},
	"store":             {"replication", "proto", "internal/access", "internal/caller", "internal/turn", "internal/refusal"}, // replication: the words of a state machine
	"client":            {"proto"},
	"replication":       {"proto", "internal/refusal"}, // the words; nothing runs there
	"replication/node": {"replication", "proto", "internal/seldom", "internal/sleep", "internal/turn", parts + "policy", parts + "clone", parts + "readindex", parts + "propose",
		parts + "raftio", parts + "peer", parts + "raftlog", parts + "volume", parts + "handshake", parts + "entry"},
	parts + "policy":    {"replication"},
	parts + "clone":     {"replication", "proto", "internal/sleep", parts + "raftio"},
	parts + "readindex": {"replication", "proto", parts + "raftio"},
	parts + "propose":   {"replication", "proto", "internal/masterstream", "internal/refusal", parts + "raftio", parts + "entry"},
	parts + "raftio": {"replication", "proto", "internal/seldom", "internal/sleep", "internal/turn", parts + "peer", parts + "raftlog", parts + "logstream",
		parts + "volume", parts + "handshake", parts + "entry", parts + "slogger"},
	parts + "peer":          {"replication", "internal/quota", "internal/seldom", parts + "volume", parts + "handshake"},
	parts + "raftlog":       {"replication", "internal/turn"},
	parts + "volume":        {"replication"},
	parts + "logstream":     {},
	parts + "handshake":     {},
	parts + "entry":         {"proto"},
	parts + "slogger":       {},
	parts + "machinetest":   {"replication", "proto", parts + "entry"},
	"proto":                 {},
	"internal/turn":         {},
	"internal/seldom":       {},
	"internal/sleep":        {},
	"internal/caller":       {},
	"internal/buildinfo":    {},
	"internal/access":       {"proto", "internal/caller", "internal/refusal"},
	"internal/pki":          {"internal/wholefile"},
	"internal/wholefile":    {},
	"internal/masterstream": {},
	"internal/inbound":      {"internal/quota", "internal/sleep"},
	"internal/rawgrpc":      {},
	"internal/quota":        {"proto", "internal/refusal"},
	"internal/refusal":      {"proto"},
	// Not part of the product:
	"client/clienttest": {"store", "proto", "internal/refusal"}, // it answers from a real store
	"internal/lint":     {},
	"internal/image":    {},
	"internal/sbom":     {"internal/buildinfo"},
	"tools/policies":    {},
	"test":              {"client", "proto", "store", "test/oracle", "test/cluster", "internal/pki", "internal/rawgrpc", "internal/sleep"},
	"test/oracle":       {},
	"test/cluster":      {"proto", "internal/pki"},
	"bench":             {"client", "proto", "store", "test/cluster", "internal/pki"},
}

// forTests are what the tests of a package may import as well: what knows none
// of the package's own floor.
var forTests = map[string][]string{
	"cmd/kvd":          {"test/oracle", "test/simulate", "test/cluster"},
	"client":           {"test/cluster", "client/clienttest", "internal/pki"},
	"internal/inbound": {"internal/rawgrpc"},
	"server":           {"client", "internal/rawgrpc"},
	"server/audit":     {"proto"},
	"server/etcd":      {"server/audit", "internal/rawgrpc"},
	"cmd/kvctl":        {"client/clienttest"},
	"replication/node": {"test/oracle", parts + "machinetest"},
	parts + "raftio":   {parts + "machinetest"},
	parts + "peer":     {"internal/pki"},
	// Its explorer decides with the real function who founds.
	parts + "policy": {"kubernetes"},
}

// forbidden are imports from elsewhere that a floor must not know.
var forbidden = map[string][]string{
	"store":       {"github.com/hashicorp/raft", "google.golang.org/grpc", "k8s.io/"},
	"server":      {"github.com/hashicorp/raft", "go.etcd.io/bbolt"},
	"replication": {"go.etcd.io/bbolt"},
	"client":      {"github.com/hashicorp/raft", "go.etcd.io/bbolt", "github.com/prometheus"},
	"proto":       {"github.com/hashicorp/raft", "go.etcd.io/bbolt"},
	// What a pod decides follows from what it knows, and from nothing else.
	parts + "policy": {
		"github.com/hashicorp/", "google.golang.org/", "context", "log", "math/rand", "net", "os", "sync", "time",
	},
}

// source is one Go file.
type source struct {
	path      string // from the root, with slashes
	lines     int
	fileSet   *token.FileSet
	syntax    *ast.File
	generated bool
}

func (s *source) directory() string { return filepath.ToSlash(filepath.Dir(s.path)) }
func (s *source) test() bool        { return strings.HasSuffix(s.path, "_test.go") }

func sources(t *testing.T) []*source {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []*source
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "data" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s := &source{path: filepath.ToSlash(relative), lines: strings.Count(string(text), "\n"), fileSet: token.NewFileSet()}
		s.syntax, err = parser.ParseFile(s.fileSet, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		s.generated = ast.IsGenerated(s.syntax)
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("found only %d files: the walk is broken", len(all))
	}
	return all
}

// ruleFor is the entry for a directory or the nearest one above it.
func ruleFor(directory string) (string, bool) {
	for d := directory; d != "."; d = filepath.ToSlash(filepath.Dir(d)) {
		if _, ok := allowed[d]; ok {
			return d, true
		}
	}
	return "", false
}

func within(path, directory string) bool {
	return path == directory || strings.HasPrefix(path, directory+"/")
}

func TestImportsGoDown(t *testing.T) {
	for _, s := range sources(t) {
		rule, ok := ruleFor(s.directory())
		if !ok {
			t.Errorf("%s: its package is not in the list of this test; say what it may import", s.path)
			continue
		}
		for _, spec := range s.syntax.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if own, ok := strings.CutPrefix(path, module+"/"); ok {
				if s.test() && slices.ContainsFunc(forTests[rule], func(d string) bool { return within(own, d) }) {
					continue
				}
				if theirs, _ := ruleFor(own); theirs != rule && !slices.Contains(allowed[rule], theirs) {
					t.Errorf("%s imports %s; %s may import %v", s.path, own, rule, allowed[rule])
				}
				continue
			}
			for _, prefix := range forbidden[rule] {
				if strings.HasPrefix(path, prefix) && !s.test() {
					t.Errorf("%s imports %s, which %s must not know", s.path, path, rule)
				}
			}
		}
	}
}

func TestFunctionsAreShort(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		for _, declaration := range s.syntax.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if !ok || function.Body == nil {
				continue
			}
			lines := s.fileSet.Position(function.End()).Line - s.fileSet.Position(function.Pos()).Line + 1
			limit := maxFunctionLines
			if s.test() {
				limit = maxTestFunctionLines
			}
			if lines > limit {
				t.Errorf("%s: %s has %d lines, at most %d", s.path, function.Name.Name, lines, limit)
			}
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	for _, s := range sources(t) {
		limit := maxFileLines
		if s.test() {
			limit = maxTestFileLines
		}
		if !s.generated && s.lines > limit {
			t.Errorf("%s has %d lines, at most %d", s.path, s.lines, limit)
		}
	}
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		directory := s.directory()
		if s.generated {
			documented[directory] = true // The proto files say it.
			continue
		}
		documented[directory] = documented[directory] ||
			filepath.Base(s.path) == "doc.go" && s.syntax.Doc != nil
	}
	for _, directory := range slices.Sorted(maps.Keys(documented)) {
		if !documented[directory] {
			t.Errorf("%s has no doc.go with a package comment", directory)
		}
	}
}
