package etcd

import (
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestPage: docs/etcd.md has every RPC, and every option of it.
func TestPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/etcd.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range methods(t) {
		service := method.Parent()
		_, section, ok := strings.Cut(string(text), "\n### "+string(service.Name())+"\n")
		if !ok {
			t.Fatalf("docs/etcd.md has no section %s", service.Name())
		}
		section, _, _ = strings.Cut(section, "\n##")
		has(t, section, service, method.Name())
		options(t, section, service, method.Input())
	}
}

// options looks for the fields of a request, and of those that it is one of.
func options(t *testing.T, section string, service, message protoreflect.Descriptor) {
	t.Helper()
	fields := message.(protoreflect.MessageDescriptor).Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		has(t, section, service, field.Name())
		if field.ContainingOneof() != nil {
			options(t, section, service, field.Message())
		}
	}
}

func has(t *testing.T, section string, service protoreflect.Descriptor, name protoreflect.Name) {
	t.Helper()
	if !strings.Contains(section, "`"+string(name)+"`") {
		t.Errorf("docs/etcd.md, %s: no `%s`", service.Name(), name)
	}
}
