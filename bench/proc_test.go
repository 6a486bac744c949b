package main

import (
	"testing"
	"time"
)

func TestParseCPU(t *testing.T) {
	stat := "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 7 8 20 0 9 0 1000"
	got, err := parseCPU([]byte(stat))
	if err != nil || got != 3*time.Second {
		t.Errorf("got %s, %v, want 3s", got, err)
	}
	if _, err := parseCPU([]byte("42 (a) S 1")); err == nil {
		t.Error("a short line was accepted")
	}
}

func TestParseMemory(t *testing.T) {
	status := "Name:\tkvd\nVmRSS:\t   2048 kB\nRssAnon:\t  1024 kB\n"
	if got, err := parseMemory(status, "VmRSS"); err != nil || got != 2<<20 {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := parseMemory(status, "VmSwap"); err == nil {
		t.Error("a missing field was found")
	}
}

func TestParseWritten(t *testing.T) {
	if got, err := parseWritten("wchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n"); err != nil || got != 4096 {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := parseWritten("wchar: 1\n"); err == nil {
		t.Error("a missing field was found")
	}
}

func TestParseBusy(t *testing.T) {
	got, err := parseBusy("cpu  100 20 30 999 5 6 44 0 0 0\ncpu0 1 1 1 1 1 1 1\n")
	if err != nil || got != 2*time.Second {
		t.Errorf("got %s, %v, want 2s", got, err)
	}
	if _, err := parseBusy("nothing"); err == nil {
		t.Error("a strange file was accepted")
	}
}

func TestParseFileSystem(t *testing.T) {
	mounts := "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmpdata xfs rw 0 0\n"
	for dir, want := range map[string]string{"/": "ext4", "/home/x": "ext4", "/tmp/x": "tmpfs", "/tmp": "tmpfs", "/tmpdata/x": "xfs", "/tmpother": "ext4"} {
		if got := parseFileSystem(mounts, dir); got != want {
			t.Errorf("%s is on %s, want %s", dir, got, want)
		}
	}
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"kill-": "kill.", "a\xff": "b", "\xff": "\x00"} {
		if got := string(prefixEnd([]byte(prefix))); got != want {
			t.Errorf("prefixEnd(%q) = %q, want %q", prefix, got, want)
		}
	}
}
