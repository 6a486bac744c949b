package recovery

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
)

// A pod that died between the record and its disk goes on with what it has decided.
func TestSuccessor(t *testing.T) {
	disk := replication.Disk{Member: "kv-1/b", Cluster: "c1"}
	fresh := kubernetes.Record{Cluster: "fresh", Founder: "kv-1/b", Replaces: "c1"}
	decided := kubernetes.Record{Cluster: "c2", Founder: "kv-1/b", Replaces: "c1"}
	for name, c := range map[string]struct{ now, want kubernetes.Record }{
		"no record":                   {kubernetes.Record{}, fresh},
		"the cluster's":               {kubernetes.Record{Cluster: "c1", Founder: "kv-0/a"}, fresh},
		"its own decision":            {decided, decided},
		"another pod's decision":      {kubernetes.Record{Cluster: "c2", Founder: "kv-0/a", Replaces: "c1"}, fresh},
		"its decision, before a copy": {kubernetes.Record{Cluster: "c2", Founder: "kv-1/b", Replaces: "c0"}, fresh},
	} {
		if got := successor(disk, c.now, "fresh"); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestAdoptable(t *testing.T) {
	for because, disk := range map[string]replication.Disk{
		"no data":          {Place: "there"},
		"where it belongs": {HasData: true, Place: "here"},
		"nothing to adopt": {HasData: true},
	} {
		if err := adoptable(disk, "here"); err == nil || !strings.Contains(err.Error(), because) {
			t.Errorf("%+v: %v", disk, err)
		}
	}
	if err := adoptable(replication.Disk{HasData: true, Place: "there"}, "here"); err != nil {
		t.Error(err)
	}
}

// A refusal is answered, and the next request is taken; one that is granted is
// answered by whoever carries it out.
func TestRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, granted := t.TempDir(), make(chan struct{})
		go func() {
			defer close(granted)
			Await(t.Context(), dir, func(lost []string) error {
				if !slices.Equal(lost, []string{"kv-0", "kv-2"}) {
					return errors.New("kv-2 may not be lost")
				}
				return nil
			}, slog.New(slog.DiscardHandler))
			answer{OK: true, Text: "done"}.leave(dir, slog.New(slog.DiscardHandler))
		}()
		if _, err := Request(t.Context(), dir, []string{"kv-0"}); err == nil || !strings.Contains(err.Error(), "kv-2 may not be lost") {
			t.Errorf("refused: %v", err)
		}
		if text, err := Request(t.Context(), dir, []string{"kv-0", "kv-2"}); err != nil || text != "done" {
			t.Errorf("granted: %q, %v", text, err)
		}
		<-granted
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

// Nobody takes the request, or what takes it is none.
func TestRequestThatNobodyTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		if _, err := Request(t.Context(), dir, nil); err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(dir, requestName), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*poll)
		defer cancel()
		Await(ctx, dir, func([]string) error { t.Error("decided"); return nil }, slog.New(slog.DiscardHandler))
		var said answer
		if taken, err := take(filepath.Join(dir, answerName), &said); !taken || err != nil || said.OK || said.Text == "" {
			t.Errorf("%+v, %t, %v", said, taken, err)
		}
	})
}

// A link in the place of a request or an answer is not followed.
func TestFollowsNoLink(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	path := filepath.Join(t.TempDir(), answerName)
	if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o600), os.Symlink(victim, path+".tmp")); err != nil {
		t.Fatal(err)
	}
	if err := write(path, answer{}); !errors.Is(err, syscall.ELOOP) {
		t.Error(err)
	}
	if content, err := os.ReadFile(victim); err != nil || string(content) != "precious" {
		t.Errorf("the file behind the link has %q, %v", content, err)
	}
}
