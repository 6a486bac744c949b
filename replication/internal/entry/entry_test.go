package entry

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func put(key, value string) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func encode(t testing.TB, commands ...*kvv1.Command) []byte {
	b := []byte{Version}
	for _, c := range commands {
		var err error
		if b, err = AppendCommand(b, c); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	for _, commands := range [][]*kvv1.Command{nil, {put("a", "1")}, {put("a", ""), put("b", string(make([]byte, 1000)))}} {
		data := encode(t, commands...)
		if err := Verify(data, Checksum(data)); err != nil {
			t.Error(err)
		}
		got, err := Decode(data)
		if err != nil || len(got) != len(commands) {
			t.Fatalf("%d commands came back as %d, %v", len(commands), len(got), err)
		}
		for i := range got {
			if !proto.Equal(got[i], commands[i]) {
				t.Errorf("%v came back as %v", commands[i], got[i])
			}
		}
	}
}

// Scenario: S26
func TestRefusals(t *testing.T) {
	good := encode(t, put("a", "1"))
	newer := append([]byte{}, good...)
	newer[0] = Version + 1
	for _, tc := range []struct {
		name string
		data []byte
		want error
	}{
		{"empty", nil, ErrCorrupt},
		{"a newer version", newer, ErrUnknown},
		{"cut", good[:len(good)-1], ErrCorrupt},
		{"an unknown command", []byte{Version, 3, 0xfa, 0x01, 0}, ErrUnknown}, // field 31, empty
		{"no command", []byte{Version, 0}, ErrUnknown},
		{"a huge length", []byte{Version, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, ErrCorrupt},
	} {
		if _, err := Decode(tc.data); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	for i := range good {
		bad := append([]byte{}, good...)
		bad[i] ^= 0x40
		if err := Verify(bad, Checksum(good)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, put("a", "1"), put("b", "2")))
	f.Add([]byte{Version})
	f.Add([]byte{Version, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, data []byte) {
		commands, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Decode(encode(t, commands...))
		if err != nil || len(again) != len(commands) {
			t.Fatalf("%d commands, encoded again %d, %v", len(commands), len(again), err)
		}
	})
}
