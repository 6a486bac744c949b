package handshake

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

var hello = Hello{Kind: Raft, Cluster: "c", Member: "kv-1/b", Pod: "kv-1", TargetPod: "kv-0", TargetMember: "kv-0/a"}

func encoded(t testing.TB, h Hello) []byte {
	var b bytes.Buffer
	if err := WriteHello(&b, h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHello(t *testing.T) {
	for _, h := range []Hello{hello, {Kind: Calls}, {Kind: Calls, Pod: strings.Repeat("p", maxString)}} {
		got, err := ReadHello(bytes.NewReader(encoded(t, h)))
		if err != nil || got != h {
			t.Errorf("%+v came back as %+v, %v", h, got, err)
		}
	}
	if err := WriteHello(&bytes.Buffer{}, Hello{Pod: strings.Repeat("p", maxString+1)}); err == nil {
		t.Error("a name that is too long was written")
	}
}

func TestWelcome(t *testing.T) {
	var b bytes.Buffer
	w := Welcome{Message: strings.Repeat("m", 2*maxString), Reason: WrongPod, Pod: "kv-2"}
	if err := WriteWelcome(&b, w); err != nil {
		t.Fatal(err)
	}
	var refused *Refused
	if got, err := ReadWelcome(&b); !errors.As(err, &refused) || refused.Reason != WrongPod || got.Pod != "kv-2" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestGarbage(t *testing.T) {
	good := encoded(t, hello)
	for i := range good {
		if _, err := ReadHello(bytes.NewReader(good[:i])); err == nil {
			t.Errorf("accepted after %d of %d bytes", i, len(good))
		}
	}
	newer := append([]byte{}, good...)
	newer[len(magic)] = Version + 1
	var refused *Refused
	if _, err := ReadHello(bytes.NewReader(newer)); !errors.As(err, &refused) || refused.Reason != WrongVersion {
		t.Errorf("a newer version: %v", err)
	}
	if _, err := ReadHello(strings.NewReader("GET / HTTP/1.1\r\n\r\n")); !errors.Is(err, ErrMalformed) {
		t.Errorf("HTTP: %v", err)
	}
}

func FuzzReadHello(f *testing.F) {
	f.Add(encoded(f, hello))
	f.Add([]byte("BATON\r\n\x01\x01\x00\x01\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ReadHello(bytes.NewReader(data))
		if err != nil {
			return
		}
		if again := encoded(t, h); !bytes.HasPrefix(data, again) {
			t.Fatalf("%x was read as %+v, which is %x", data, h, again)
		}
	})
}

func FuzzReadWelcome(f *testing.F) {
	var b bytes.Buffer
	WriteWelcome(&b, Welcome{Cluster: "c", Member: "kv-0/a", Pod: "kv-0"})
	f.Add(b.Bytes())
	f.Fuzz(func(_ *testing.T, data []byte) { ReadWelcome(bytes.NewReader(data)) })
}
