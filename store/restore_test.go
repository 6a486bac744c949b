package store

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func TestRestoreFileBeginsANewHistory(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	d.do(put("a", "1"))
	d.do(put("a", "2"))
	if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "backup")
	save(t, d.s, path)
	before, err := Verify(context.Background(), path, nil)
	if err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	info, err := RestoreFile(context.Background(), path, dir, []byte("members"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if info.Revision <= before.Revision || info.Position.Index != 1 {
		t.Fatalf("restored %+v from %+v", info, before)
	}
	restored, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer closeChecked(t, restored)
	resp, err := restored.Range(context.Background(), &kvv1.RangeRequest{Key: []byte("a")})
	if err != nil || string(resp.Kvs[0].Value) != "2" {
		t.Fatalf("a = %v, %v", resp, err)
	}
	w, err := restored.Watch(&kvv1.WatchRequest{Key: []byte("a"), StartRevision: info.Revision})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	restored.Apply(2, 1, []*kvv1.Command{put("a", "3")})
	events, err := w.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if kv := events.Events[0].Kv; kv.ModRevision != info.Revision+1 || kv.Version != 3 {
		t.Fatalf("event %v", kv)
	}
	if _, err := RestoreFile(context.Background(), path, dir, nil, nil); err == nil {
		t.Fatal("restored over a database")
	}
	stream, err := d.s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if err := BeginHistory(context.Background(), dir, stream, nil); err == nil {
		t.Fatal("a history begun over a database")
	}
	other := t.TempDir()
	if err := BeginHistory(context.Background(), other, stream, []byte("members")); err != nil {
		t.Fatal(err)
	}
	begun, err := Open(Options{Dir: other})
	if err != nil {
		t.Fatal(err)
	}
	defer closeChecked(t, begun)
	if at := begun.Durable(); at.Index != 1 || string(at.Configuration) != "members" || begun.Revision() <= before.Revision {
		t.Fatalf("begun at %+v, revision %d", at, begun.Revision())
	}
}

// A history that began from the same backup later must not give revisions that
// an earlier one gave.
func TestOneBackupRestoredTwice(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	d.do(put("a", "1"))
	if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "backup")
	save(t, d.s, path)
	last := int64(0)
	for range 3 {
		dir := t.TempDir()
		info, err := RestoreFile(context.Background(), path, dir, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if info.Revision <= last {
			t.Fatalf("a history begins at revision %d, the one before has reached %d", info.Revision, last)
		}
		restored, err := Open(Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(100) {
			restored.Apply(i+2, 1, []*kvv1.Command{put("a", "2")})
		}
		last = restored.Revision()
		closeChecked(t, restored)
	}
}

func TestARestoredHistoryBeginsAboveTheBackupWhateverTheClock(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		backup int64
		now    time.Time
		want   int64
	}{
		{7, now, now.UnixMicro()},
		{7, time.Unix(0, 0), 7 + restoredRevisions},
		{7, time.Unix(-1e6, 0), 7 + restoredRevisions},
		{now.UnixMicro(), now, now.UnixMicro() + restoredRevisions}, // restored just before
		{now.UnixMicro(), now.Add(-time.Hour), now.UnixMicro() + restoredRevisions},
	} {
		if got := restoredRevision(test.backup, test.now); got != test.want {
			t.Errorf("a backup of %d at %v: %d, want %d", test.backup, test.now, got, test.want)
		}
	}
}

func save(t *testing.T, s *Store, path string) {
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
	if err != nil || n != snapshot.Size() {
		t.Fatalf("copied %d of %d bytes: %v", n, snapshot.Size(), err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}
