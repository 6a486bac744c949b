package volume

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/batondb/baton/replication"
)

func open(t *testing.T, dir string) *Volume {
	t.Helper()
	v, err := Open(t.Context(), dir, "kv-0", time.Second, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func aside(t *testing.T, dir, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// withData is a volume of a member with a database.
func withData(t *testing.T, dir, database string) *Volume {
	t.Helper()
	v := open(t, dir)
	write(t, filepath.Join(dir, "store.db"), database)
	if err := v.Update(func(id *Identity) { id.ClusterID, id.Stage = "c1", Data }); err != nil {
		t.Fatal(err)
	}
	return v
}

// Of the members that a volume has had, the last one's data is kept.
func TestRetired(t *testing.T) {
	dir := t.TempDir()
	for _, database := range []string{"first", "second", "third"} {
		v := withData(t, dir, database)
		before := v.Identity()
		if err := v.Update(func(id *Identity) { id.Retired = "it left" }); err != nil {
			t.Fatal(err)
		}
		v.Close()
		v = open(t, dir)
		if id := v.Identity(); id.MemberID == before.MemberID || id.Stage != Empty || id.ClusterID != "c1" {
			t.Errorf("%+v", id)
		}
		v.Close()
		kept := aside(t, dir, "removed-*")
		if len(kept) != 1 || content(t, filepath.Join(kept[0], "store.db")) != database {
			t.Errorf("kept %v", kept)
		}
	}
}

// A member that never had data is no reason to remove an earlier one's.
func TestRetiredWithoutData(t *testing.T) {
	dir := t.TempDir()
	v := withData(t, dir, "first")
	if err := v.Update(func(id *Identity) { id.Retired = "it left" }); err != nil {
		t.Fatal(err)
	}
	v.Close()
	v = open(t, dir)
	if err := v.Update(func(id *Identity) { id.Retired = "removed before it had anything" }); err != nil {
		t.Fatal(err)
	}
	v.Close()
	open(t, dir)
	if kept := aside(t, dir, "removed-*/store.db"); len(kept) != 1 || content(t, kept[0]) != "first" {
		t.Errorf("kept %v", kept)
	}
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	v := withData(t, dir, "old")
	failed := errors.New("no space")
	if err := v.Replace(func(*Identity) {}, func(string, Identity) error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if content(t, filepath.Join(dir, "store.db")) != "old" || len(aside(t, dir, replacing)) != 0 {
		t.Error("a failure left its traces")
	}
	err := v.Replace(func(id *Identity) { id.ClusterID = "c2" }, func(next string, id Identity) error {
		if id.ClusterID != "c2" || !strings.HasPrefix(id.MemberID, "kv-0/") {
			t.Errorf("%+v", id)
		}
		write(t, filepath.Join(next, "store.db"), "new")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	id := v.Identity()
	v.Close()
	if again := open(t, dir).Identity(); again != id || id.ClusterID != "c2" || id.Stage != Data {
		t.Errorf("%+v, then %+v", id, again)
	}
	if kept := aside(t, dir, "replaced-*/store.db"); content(t, filepath.Join(dir, "store.db")) != "new" || len(kept) != 1 || content(t, kept[0]) != "old" {
		t.Errorf("kept %v", kept)
	}
}

// A crash at any step of an exchange leaves the old data or the new.
func TestReplaceIsCut(t *testing.T) {
	next := Identity{Format: formatVersion, MemberID: "kv-0/" + uuid.NewString(), ClusterID: "c2", Stage: Data}
	marker := func(t *testing.T, dir string) {
		t.Helper()
		if err := writeMarker(dir, next); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		cut  func(t *testing.T, v *Volume, dir string)
		want string
	}{
		"not prepared": {func(*testing.T, *Volume, string) {}, "old"},
		"prepared":     {func(t *testing.T, _ *Volume, dir string) { marker(t, filepath.Join(dir, replacing)) }, "new"},
		"old data set aside": {func(t *testing.T, v *Volume, dir string) {
			marker(t, filepath.Join(dir, replacing))
			if err := v.setAside("replaced-x"); err != nil {
				t.Fatal(err)
			}
		}, "new"},
		"new data in place, without its marker": {func(t *testing.T, v *Volume, dir string) {
			marker(t, filepath.Join(dir, replacing))
			if err := errors.Join(v.setAside("replaced-x"),
				os.Rename(filepath.Join(dir, replacing, "store.db"), filepath.Join(dir, "store.db"))); err != nil {
				t.Fatal(err)
			}
		}, "new"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			v := withData(t, dir, "old")
			write(t, filepath.Join(dir, replacing, "store.db"), "new")
			c.cut(t, v, dir)
			v.Close()
			id := open(t, dir).Identity()
			if got := content(t, filepath.Join(dir, "store.db")); got != c.want || (id.ClusterID == "c2") != (got == "new") {
				t.Errorf("%s, %+v", got, id)
			}
			if len(aside(t, dir, replacing)) != 0 {
				t.Error("the directory is still there")
			}
		})
	}
}

// files lists all that is under a directory, with the content of the files.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			found[path] = content(t, path)
		} else {
			found[path] = d.Type().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Whatever member.json says, nothing leaves the directory, and nothing moves in it
// for an identity that no pod has written.
func TestForeignMemberID(t *testing.T) {
	unique := uuid.NewString()
	for _, member := range []string{
		"", "/", "kv-0", "kv-0/", "/" + unique, "kv-0/../../outside", "kv-0/x/../../../outside", "kv-0/..", "kv-0//" + unique,
		"kv-0/" + unique + "/", "kv-0/" + unique + "/../../outside", "/kv-0/" + unique, "../kv-0/" + unique, "kv-0/\x00" + unique[1:],
		"kv-0/" + unique + "\x00", "kv-0/" + strings.Repeat("a", 5000), "kv-0/" + strings.ToUpper("abcdef"+unique[6:]),
		"kv-0/{" + unique + "}", "kv-1/" + unique,
	} {
		for _, at := range []string{"", replacing} {
			base := t.TempDir()
			dir := filepath.Join(base, "volume")
			withData(t, dir, "old").Close()
			write(t, filepath.Join(dir, replacing, "store.db"), "new")
			valid := Identity{Format: formatVersion, MemberID: "kv-0/" + unique, Stage: Data}
			foreign := Identity{Format: formatVersion, MemberID: member, Stage: Data, Retired: "it left"}
			if err := errors.Join(writeMarker(filepath.Join(dir, replacing), valid), writeMarker(filepath.Join(dir, at), foreign)); err != nil {
				t.Fatal(err)
			}
			before := files(t, base)
			v, err := Open(t.Context(), dir, "kv-0", time.Second, slog.New(slog.DiscardHandler))
			if !errors.Is(err, replication.ErrForeign) {
				t.Errorf("%q in %q: %v", member, at, err)
			}
			if err == nil {
				v.Close()
			}
			if after := files(t, base); !maps.Equal(before, after) {
				t.Errorf("%q in %q: %v, before %v", member, at, after, before)
			}
		}
	}
}

// A link does not lead data out of the directory.
func TestSetAsideThroughALink(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	v := withData(t, dir, "old")
	_, unique, _ := strings.Cut(v.Identity().MemberID, "/")
	if err := errors.Join(v.Update(func(id *Identity) { id.Retired = "it left" }), v.Close(),
		os.Symlink(outside, filepath.Join(dir, "removed-"+unique))); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, "kv-0", time.Second, slog.New(slog.DiscardHandler)); !errors.Is(err, replication.ErrForeign) {
		t.Error(err)
	}
	if left := aside(t, outside, "*"); len(left) != 0 || content(t, filepath.Join(dir, "store.db")) != "old" {
		t.Errorf("outside: %v", left)
	}
}
