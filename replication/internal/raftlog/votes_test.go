package raftlog

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/batondb/baton/replication"
)

func openVotes(t *testing.T, path string) *Votes {
	t.Helper()
	v, err := OpenVotes(path, time.Minute, func(err error) { t.Error(err) }, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// onDisk is what a pod would find that is killed now.
func onDisk(t *testing.T, v *Votes, path string) (term, voted uint64, candidate string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "vote.db")
	if err := os.WriteFile(copied, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	c := openVotes(t, copied)
	defer c.Close()
	term, _ = c.GetUint64([]byte("CurrentTerm"))
	voted, _ = c.GetUint64([]byte("LastVoteTerm"))
	b, _ := c.Get([]byte("LastVoteCand"))
	return term, voted, string(b)
}

// A pod that is killed within a vote has given it, or it has not. The term with
// the candidate of the vote before would be a vote that nobody gave: the library
// repeats it to that candidate, without a look at its log.
func TestAVoteIsOneStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vote.db")
	v := openVotes(t, path)
	for term, candidate := range []string{1: "kv-1/a", 2: "kv-2/b", 7: "kv-1/a"} {
		if candidate == "" {
			continue
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		_, votedBefore, candidateBefore := onDisk(t, v, path)
		// As the library does: setCurrentTerm, then persistVote.
		must(v.SetUint64([]byte("CurrentTerm"), uint64(term)))
		must(v.SetUint64([]byte("LastVoteTerm"), uint64(term)))
		if now, voted, got := onDisk(t, v, path); now != uint64(term) || voted != votedBefore || got != candidateBefore {
			t.Errorf("within the vote of term %d: in term %d the last vote was in %d for %q", term, now, voted, got)
		}
		must(v.Set([]byte("LastVoteCand"), []byte(candidate)))
		if now, voted, got := onDisk(t, v, path); now != uint64(term) || voted != uint64(term) || got != candidate {
			t.Errorf("after the vote of term %d for %s: in term %d the last vote was in %d for %q", term, candidate, now, voted, got)
		}
	}
}

func TestVotesOfANewFile(t *testing.T) {
	v := openVotes(t, filepath.Join(t.TempDir(), "vote.db"))
	if _, err := v.GetUint64([]byte("LastVoteTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("the library knows a missing key by another text: %v", err)
	}
	if _, err := v.Get([]byte("LastVoteCand")); err == nil || err.Error() != "not found" {
		t.Errorf("the library knows a missing key by another text: %v", err)
	}
}

// A term that cannot follow what the log owes is not stored.
func TestVotesSettleFirst(t *testing.T) {
	broken := errors.New("input/output error")
	path := filepath.Join(t.TempDir(), "vote.db")
	v, err := OpenVotes(path, time.Minute, func(err error) { t.Error(err) }, func() error { return broken })
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := v.SetUint64([]byte("CurrentTerm"), 3); !errors.Is(err, broken) {
		t.Errorf("stored after the log failed: %v", err)
	}
	if term, _, _ := onDisk(t, v, path); term != 0 {
		t.Errorf("term %d is on disk", term)
	}
}

// A file of a version that used raft-boltdb: the last vote was in term 4, and the
// term is 5.
func TestVotesOfAnEarlierVersion(t *testing.T) {
	packed, err := os.Open(filepath.Join("testdata", "vote.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	r, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "vote.db")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if term, voted, candidate := onDisk(t, openVotes(t, path), path); term != 5 || voted != 4 || candidate != "kv-1/a" {
		t.Errorf("in term %d the last vote was in %d for %q", term, voted, candidate)
	}
}

// A file of another version of bbolt's format is not damaged: after a downgrade all
// pods would give up their data for it.
func TestVotesOfAnotherFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes.db")
	if err := openVotes(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, meta := range []int{0, os.Getpagesize()} {
		content[meta+20]++ // After the page's header, and the file's magic number.
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := OpenVotes(path, time.Minute, func(error) {}, func() error { return nil })
	if err == nil {
		t.Fatal(v.Close())
	}
	if !errors.Is(err, bolterrors.ErrVersionMismatch) || errors.Is(err, replication.ErrDamaged) {
		t.Error(err)
	}
}

// A link in the place of the votes is not followed.
func TestVotesFollowNoLink(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	link := filepath.Join(t.TempDir(), "votes")
	if err := errors.Join(os.WriteFile(victim, nil, 0o600), os.Symlink(victim, link)); err != nil {
		t.Fatal(err)
	}
	if v, err := OpenVotes(link, time.Minute, func(err error) { t.Error(err) }, func() error { return nil }); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("%v, %v", v, err)
	}
	if content, err := os.ReadFile(victim); err != nil || len(content) != 0 {
		t.Errorf("the file behind the link has %q, %v", content, err)
	}
}
