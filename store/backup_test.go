package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestBackupOfEtcdsClients(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	d.do(put("a", "1"))
	if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	save(t, d.s, plain)
	stream, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	backup := sealed(stream)
	path := filepath.Join(t.TempDir(), "backup")
	restore := func(content []byte) error {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := RestoreFile(context.Background(), path, t.TempDir(), nil, nil)
		return err
	}
	if err := restore(backup); err != nil {
		t.Fatal(err)
	}
	if info, err := Verify(context.Background(), path, nil); err != nil || info.Revision != 2 {
		t.Fatalf("%+v, %v", info, err)
	}
	for name, damaged := range map[string][]byte{
		"a byte of the stream":   flipped(backup, len(stream)/2),
		"a byte of the padding":  flipped(backup, len(stream)+1),
		"a byte of the checksum": flipped(backup, len(backup)-1),
		"a byte too few":         backup[:len(backup)-1],
		"a byte too many":        append(bytes.Clone(backup), 0),
		"no checksum":            backup[:len(backup)-sha256.Size],
		"half of it":             backup[:len(backup)/2],
		"no stream":              backup[:10],
		"nothing":                nil,
	} {
		if err := restore(damaged); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// sealed is a stream as etcd's clients get it.
func sealed(stream []byte) []byte {
	padded := append(bytes.Clone(stream), make([]byte, SectorBytes-len(stream)%SectorBytes)...)
	sum := sha256.Sum256(padded)
	return append(padded, sum[:]...)
}

func flipped(content []byte, at int) []byte {
	damaged := bytes.Clone(content)
	damaged[at] ^= 1
	return damaged
}
