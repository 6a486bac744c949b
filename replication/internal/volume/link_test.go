package volume

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Whoever may write to the volume gets no file elsewhere written by a link.
func TestFollowsNoLink(t *testing.T) {
	for _, name := range []string{lockName, markerName + ".tmp"} {
		dir := t.TempDir()
		victim := filepath.Join(t.TempDir(), "victim")
		write(t, victim, "precious")
		if err := os.Symlink(victim, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		v, err := Open(t.Context(), dir, "kv-0", time.Second, slog.New(slog.DiscardHandler))
		if err == nil {
			err = v.write(Identity{})
			v.Close()
		}
		if !errors.Is(err, syscall.ELOOP) {
			t.Errorf("%s: %v", name, err)
		}
		if got := content(t, victim); got != "precious" {
			t.Errorf("%s: the file behind the link has %q", name, got)
		}
	}
}
