package main

import (
	"errors"
	"reflect"
	"testing"
)

// A script that can be read is written and read as the same; one that cannot
// says where.
func FuzzScript(f *testing.F) {
	f.Add("if a exists\nif \"b c\" version > 3\nthen\nput a \"x\\ny\" lease=7\nget \"\" prefix\nelse\ndel a")
	f.Add("put a b # comment\n\nelse\nget a")
	f.Add("if a value != \"\\xff\"")
	f.Add("put \"a\"b c\n\"")
	f.Fuzz(func(t *testing.T, text string) {
		script, err := parseScript(text)
		if err != nil {
			var where *scriptError
			if !errors.As(err, &where) || where.line < 1 || where.column < 1 || where.message == "" {
				t.Fatalf("%#v", err)
			}
			return
		}
		again, err := parseScript(script.String())
		if err != nil {
			t.Fatalf("%v in what was written:\n%s", err, script)
		}
		again.section = script.section
		if !reflect.DeepEqual(script, again) {
			t.Fatalf("read as\n%s\nand again as\n%s", script, again)
		}
	})
}
