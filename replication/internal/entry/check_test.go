package entry

import (
	"errors"
	"math"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// unknown is a field that no version has.
var unknown = protowire.AppendVarint(protowire.AppendTag(nil, 1999, protowire.VarintType), 1)

// everything is one of each command, with every field set, as deep as it goes.
func everything(t testing.TB) []*kvv1.Command {
	var commands []*kvv1.Command
	oneof := (*kvv1.Command)(nil).ProtoReflect().Descriptor().Oneofs().Get(0)
	for i := range oneof.Fields().Len() {
		c := new(kvv1.Command)
		fill(c.ProtoReflect().Mutable(oneof.Fields().Get(i)).Message(), 6)
		if proto.Size(c) < 4 {
			t.Fatalf("%v: nothing is set", c)
		}
		commands = append(commands, c)
	}
	return commands
}

// fill sets every field, and of alternatives the last one, so that all others are tried, too.
func fill(m protoreflect.Message, depth int) {
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		switch {
		case f.Message() != nil && depth == 0:
		case f.IsMap():
		case f.IsList() && f.Message() != nil:
			for range 2 {
				fill(m.Mutable(f).List().AppendMutable().Message(), depth-1)
			}
		case f.IsList():
			m.Mutable(f).List().Append(value(f))
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), depth-1)
		default:
			m.Set(f, value(f))
		}
	}
}

func value(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("ö")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{0xff})
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(-1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(math.MinInt64)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(math.MaxUint32)
	case protoreflect.Fixed64Kind, protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(math.MaxUint64)
	}
	panic(f.FullName())
}

// messages calls do with every message in m.
func messages(m protoreflect.Message, do func(protoreflect.Message)) {
	do(m)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				messages(v.List().Get(i).Message(), do)
			}
		default:
			messages(v.Message(), do)
		}
		return true
	})
}

// Scenario: S26
func TestCheckKnowsEveryFieldAndNoOther(t *testing.T) {
	for _, c := range everything(t) {
		if err := Check(encode(t, c)); err != nil {
			t.Errorf("%v: %v", c, err)
		}
		messages(c.ProtoReflect(), func(m protoreflect.Message) {
			m.SetUnknown(unknown)
			if err := Check(encode(t, c)); !errors.Is(err, ErrUnknown) {
				t.Errorf("an unknown field in %s: %v", m.Descriptor().FullName(), err)
			}
			m.SetUnknown(nil)
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	compare := &kvv1.Compare{Key: []byte("k"), Operator: 77}
	txn := &kvv1.TxnRequest{Compare: []*kvv1.Compare{compare}}
	deep := &kvv1.TxnRequest{}
	for range maxDepth {
		deep = &kvv1.TxnRequest{Success: []*kvv1.Op{{Op: &kvv1.Op_Txn{Txn: deep}}}}
	}
	in := func(txn *kvv1.TxnRequest) []byte {
		return encode(t, put("a", "1"), &kvv1.Command{Command: &kvv1.Command_Txn{Txn: txn}})
	}
	for _, tc := range []struct {
		name string
		data []byte
		want error
	}{
		{"no command", []byte{Version, 0}, ErrUnknown},
		{"an operator of a later version", in(txn), ErrUnknown},
		{"too deep", in(deep), ErrUnknown},
		{"another type of a field", []byte{Version, 4, 0x0a, 2, 0x08, 1}, ErrUnknown}, // The key as a number.
		{"a field beyond the end", []byte{Version, 4, 0x0a, 2, 0x0a, 9}, ErrCorrupt},
		{"no field number", []byte{Version, 2, 0x02, 0}, ErrCorrupt},
	} {
		if err := Check(tc.data); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func hasUnknown(c *kvv1.Command) (found bool) {
	messages(c.ProtoReflect(), func(m protoreflect.Message) { found = found || len(m.GetUnknown()) > 0 })
	return found
}

// What Check lets in, Decode takes, and knows all of.
func FuzzCheck(f *testing.F) {
	for _, c := range everything(f) {
		f.Add(encode(f, c))
	}
	f.Add(append(encode(f, put("a", "1")), 4, 0x0a, 2, 0x08, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		if Check(data) != nil {
			return
		}
		commands, err := Decode(data)
		if err != nil {
			t.Fatalf("Decode does not take what Check lets in: %v", err)
		}
		for _, c := range commands {
			if hasUnknown(c) {
				t.Fatalf("%v has unknown fields", c)
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	c := &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{
		Key: make([]byte, 16), Value: make([]byte, 256), RequestId: &kvv1.RequestId{ClientId: make([]byte, 16), Sequence: 1 << 20, KnownRevision: 1 << 30},
	}}}
	data := encode(b, c)
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if err := Check(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			if _, err := Decode(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
