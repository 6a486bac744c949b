package lint

import (
	"go/ast"
	"strings"
	"testing"
)

// maxFields is what a reader can hold in the mind. What a caller sets is a form
// to fill in, not a machine: see isForm.
const maxFields = 13

func isForm(name string) bool {
	for _, end := range []string{"Options", "Config", "config"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return strings.HasPrefix(name, "json")
}

// A struct that has everything is handed to everybody, and then nobody knows who
// may touch what. One that embeds another of its package has the other's fields
// as well; an embedded type of another package makes it one of those, and is fine.
func TestStructsAreSmallAndNameTheirParts(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated || s.test() || strings.HasPrefix(s.path, "test/") || strings.HasPrefix(s.path, "bench/") {
			continue
		}
		for _, declaration := range s.syntax.Decls {
			types, ok := declaration.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range types.Specs {
				named, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				if fields, ok := named.Type.(*ast.StructType); ok {
					checkFields(t, s, named.Name.Name, fields)
				}
			}
		}
	}
}

func checkFields(t *testing.T, s *source, name string, fields *ast.StructType) {
	n := 0
	for _, field := range fields.Fields.List {
		n += max(1, len(field.Names))
		embedded := field.Type
		if pointer, ok := embedded.(*ast.StarExpr); ok {
			embedded = pointer.X
		}
		if own, ok := embedded.(*ast.Ident); ok && len(field.Names) == 0 {
			t.Errorf("%s: %s embeds %s: give the field a name", s.path, name, own.Name)
		}
	}
	if n > maxFields && !isForm(name) {
		t.Errorf("%s: %s has %d fields, at most %d", s.path, name, n, maxFields)
	}
}
