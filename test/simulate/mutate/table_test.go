package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each text is where the mutation expects it: a table that has fallen behind
// would look for nothing.
func TestMutationsFit(t *testing.T) {
	for _, m := range mutations {
		for _, e := range m.edits {
			text, err := os.ReadFile(filepath.Join("..", "..", "..", e.file))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), e.old); n != 1 {
				t.Errorf("%s: %s has %d times\n%s", m.name, e.file, n, e.old)
			}
		}
	}
}
