//go:build linux

package scenarios

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// kvctl runs the command line.
func kvctl(t *testing.T, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	output, err := exec.CommandContext(ctx, filepath.Join(os.Getenv(programsVariable), "kvctl"), args...).CombinedOutput()
	t.Logf("kvctl %v: %v: %s", args, err, output)
	return err
}

// S42: a backup becomes the data of a StatefulSet whose volumes are empty; one
// that is cut becomes nothing.
func TestS42Restore(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.mustPut(0, "in the backup")
	backup := filepath.Join(t.TempDir(), "backup")
	if err := kvctl(t, "--endpoints", s.pods[1].ip+":7400", "snapshot", "save", backup); err != nil {
		t.Fatal(err)
	}
	last, before := s.mustPut(0, "after it"), s.cluster
	s.stop(0, 1, 2)
	s.wipe(0, 1, 2)
	s.api.remove() // And the record, as with the claims.
	s.api.restore()

	text, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(backup+".cut", text[:len(text)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := kvctl(t, "snapshot", "restore", backup+".cut", "--data-dir", s.volume(0), "--name", "kv-0"); err == nil {
		t.Error("a backup that was cut was restored")
	}
	if left, err := filepath.Glob(filepath.Join(s.volume(0), "store.db")); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	if err := kvctl(t, "snapshot", "restore", backup, "--data-dir", s.volume(0), "--name", "kv-0"); err != nil {
		t.Fatal(err)
	}
	s.cluster = ""
	s.start(2, 1, 0)
	s.awaitWhole(0, 1, 2)
	if s.cluster == before {
		t.Error("the restored cluster has the old uuid")
	}
	s.mustHave("in the backup")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := kvv1.NewKVServiceClient(s.pods[2].Conn()).Range(ctx, &kvv1.RangeRequest{Key: []byte("after it")})
	if err != nil || len(r.GetKvs()) > 0 || r.GetHeader().GetRevision() <= last {
		t.Errorf("%v, %v; the last revision was %d", r, err, last)
	}
	s.checkLogs()
}
