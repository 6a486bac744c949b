package store_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

func TestRestoreFileBeginsANewHistory(t *testing.T) {
	d := open(t, 0)
	d.apply(put("a", "1"))
	d.apply(put("a", "2"))
	if err := d.s.Flush(context.Background(), d.index); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "backup")
	save(t, d.s, path)
	before, err := store.Verify(context.Background(), path, nil)
	if err != nil {
		t.Fatal(err)
	}

	restored := &driver{t: t, dir: t.TempDir()}
	info, err := store.RestoreFile(context.Background(), path, restored.dir, []byte("members"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if info.Revision <= before.Revision || info.Position.Index != 1 {
		t.Fatalf("restored %+v from %+v", info, before)
	}
	restored.open(0)
	defer restored.close()
	if got := restored.get("a"); got != "2" {
		t.Fatalf("a = %q", got)
	}
	w, err := restored.s.Watch(&kvv1.WatchRequest{Key: []byte("a"), StartRevision: info.Revision})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	restored.apply(put("a", "3"))
	resp, err := w.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if kv := resp.Events[0].Kv; kv.ModRevision != info.Revision+1 || kv.Version != 3 {
		t.Fatalf("event %v", kv)
	}
	if _, err := store.RestoreFile(context.Background(), path, restored.dir, nil, nil); err == nil {
		t.Fatal("restored over a database")
	}
}

func save(t *testing.T, s *store.Store, path string) {
	t.Helper()
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Close()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(file, snapshot)
	if err != nil || n != snapshot.Size {
		t.Fatalf("copied %d of %d bytes: %v", n, snapshot.Size, err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}
