package store

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A link in the place of the database, or of a copy that comes in, is not followed.
func TestFollowsNoLink(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	link := filepath.Join(t.TempDir(), FileName)
	if err := errors.Join(os.WriteFile(victim, nil, 0o600), os.Symlink(victim, link)); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() error{
		"open": func() error { _, err := openFile(link, false); return err },
		"receive": func() error {
			_, err := receive(link, func(w io.Writer) error { _, err := w.Write([]byte("not a database")); return err })
			return err
		},
	} {
		if err := open(); !errors.Is(err, syscall.ELOOP) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if content, err := os.ReadFile(victim); err != nil || len(content) != 0 {
		t.Errorf("the file behind the link has %q, %v", content, err)
	}
}
