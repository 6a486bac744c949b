package entry

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// maxDepth bounds the nesting of messages in a command: the store takes
// transactions within transactions to a depth of 16, at three messages each.
const maxDepth = 64

// Check says whether Decode will take an entry, and whether this version knows all
// that is in it. It is for entries that are not in the log yet.
//
// Decode asks less: it passes over a field that it does not know inside of a
// request. Versions before this check let such fields into the log, where each pod
// must make the same of them. But a pod that knows the field would make something
// else of it, so no entry with one is to get there.
func Check(data []byte) error {
	if err := checkVersion(data); err != nil {
		return err
	}
	for rest := data[1:]; len(rest) > 0; {
		command, after, err := cut(rest)
		if err != nil {
			return err
		}
		if err := checkCommand(command); err != nil {
			return err
		}
		rest = after
	}
	return nil
}

// CheckEncoded is Check for what AppendCommand has appended for one command.
func CheckEncoded(b []byte) error {
	command, _, err := cut(b)
	if err != nil {
		return err
	}
	return checkCommand(command)
}

func checkVersion(data []byte) error {
	if len(data) == 0 {
		return fmt.Errorf("%w: it is empty", ErrCorrupt)
	}
	if data[0] != Version {
		return fmt.Errorf("%w: version %d, this pod knows %d", ErrUnknown, data[0], Version)
	}
	return nil
}

// cut returns the first of some commands, and those after it.
func cut(b []byte) (command, rest []byte, err error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, fmt.Errorf("%w: a command's length is beyond its end", ErrCorrupt)
	}
	return b[n : n+int(size)], b[n+int(size):], nil
}

func checkCommand(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("%w: it holds an empty command", ErrUnknown)
	}
	return commandShape.check(b, 0)
}

// shape is what a message may hold, by the numbers of its fields. With it a message
// is looked at as it is on the wire, several times as fast as it can be decoded, and
// without an allocation.
type shape struct {
	name   string
	fields []field // By number.
}

type field struct {
	known bool
	wire  protowire.Type
	// packed: the values of a repeated field may come as one.
	packed protowire.Type
	// text must be UTF-8.
	text bool
	// values of an enumeration; nil: it is none.
	values protoreflect.EnumValueDescriptors
	// message is there for a field that is one.
	message *shape
}

var commandShape = shapeOf((*kvv1.Command)(nil).ProtoReflect().Descriptor(), map[protoreflect.FullName]*shape{})

// shapeOf goes through a message and those in it, which may hold it again.
func shapeOf(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*shape) *shape {
	if s := known[d.FullName()]; s != nil {
		return s
	}
	s := &shape{name: string(d.Name())}
	known[d.FullName()] = s
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		for len(s.fields) <= int(f.Number()) {
			s.fields = append(s.fields, field{packed: -1})
		}
		of := field{known: true, wire: wireTypes[f.Kind()], packed: -1, text: f.Kind() == protoreflect.StringKind}
		if f.Message() != nil {
			of.message = shapeOf(f.Message(), known)
		}
		if f.Enum() != nil {
			of.values = f.Enum().Values()
		}
		if f.IsList() && of.wire != protowire.BytesType {
			of.packed = protowire.BytesType
		}
		s.fields[f.Number()] = of
	}
	return s
}

var wireTypes = map[protoreflect.Kind]protowire.Type{
	protoreflect.BoolKind: protowire.VarintType, protoreflect.EnumKind: protowire.VarintType,
	protoreflect.Int32Kind: protowire.VarintType, protoreflect.Sint32Kind: protowire.VarintType, protoreflect.Uint32Kind: protowire.VarintType,
	protoreflect.Int64Kind: protowire.VarintType, protoreflect.Sint64Kind: protowire.VarintType, protoreflect.Uint64Kind: protowire.VarintType,
	protoreflect.Fixed32Kind: protowire.Fixed32Type, protoreflect.Sfixed32Kind: protowire.Fixed32Type, protoreflect.FloatKind: protowire.Fixed32Type,
	protoreflect.Fixed64Kind: protowire.Fixed64Type, protoreflect.Sfixed64Kind: protowire.Fixed64Type, protoreflect.DoubleKind: protowire.Fixed64Type,
	protoreflect.StringKind: protowire.BytesType, protoreflect.BytesKind: protowire.BytesType, protoreflect.MessageKind: protowire.BytesType,
	protoreflect.GroupKind: protowire.StartGroupType,
}

func (s *shape) check(b []byte, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: messages are nested more than %d deep", ErrUnknown, maxDepth)
	}
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: a field of %s: %v", ErrCorrupt, s.name, protowire.ParseError(n))
		}
		b = b[n:]
		if int64(number) >= int64(len(s.fields)) || !s.fields[number].known {
			return fmt.Errorf("%w: %s has a field %d that this pod does not know", ErrUnknown, s.name, number)
		}
		f := &s.fields[number]
		if wire != f.wire && wire != f.packed {
			return fmt.Errorf("%w: field %d of %s has another type than this pod knows", ErrUnknown, number, s.name)
		}
		var err error
		if wire == f.packed {
			n, err = f.checkPacked(b, depth)
		} else {
			n, err = f.check(wire, b, depth)
		}
		if err != nil {
			return fmt.Errorf("%w (field %d of %s)", err, number, s.name)
		}
		b = b[n:]
	}
	return nil
}

// check looks at a value, and returns its length.
func (f *field) check(wire protowire.Type, b []byte, depth int) (n int, err error) {
	switch wire {
	case protowire.BytesType:
		var content []byte
		if content, n = protowire.ConsumeBytes(b); n < 0 {
			break
		}
		if f.message != nil {
			err = f.message.check(content, depth+1)
		} else if f.text && !utf8.Valid(content) {
			err = fmt.Errorf("%w: a text is not UTF-8", ErrCorrupt)
		}
	case protowire.VarintType:
		var v uint64
		if v, n = protowire.ConsumeVarint(b); n >= 0 && f.values != nil && f.values.ByNumber(protoreflect.EnumNumber(v)) == nil {
			err = fmt.Errorf("%w: it holds a value %d that this pod does not know", ErrUnknown, v)
		}
	case protowire.Fixed32Type:
		_, n = protowire.ConsumeFixed32(b)
	case protowire.Fixed64Type:
		_, n = protowire.ConsumeFixed64(b)
	default:
		n = -1 // Groups are of the time before proto3.
	}
	if n < 0 {
		return 0, fmt.Errorf("%w: it is cut off", ErrCorrupt)
	}
	return n, err
}

func (f *field) checkPacked(b []byte, depth int) (int, error) {
	values, n := protowire.ConsumeBytes(b)
	if n < 0 {
		return 0, fmt.Errorf("%w: it is cut off", ErrCorrupt)
	}
	for len(values) > 0 {
		one, err := f.check(f.wire, values, depth)
		if err != nil {
			return 0, err
		}
		values = values[one:]
	}
	return n, nil
}
