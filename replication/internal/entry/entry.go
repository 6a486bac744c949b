package entry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Version is the first byte of an entry. It is raised when a pod of an older
// version could not apply the commands as this one does.
const Version = 1

var (
	// ErrUnknown is returned for an entry or a command of a newer version. It
	// must stop the pod: skipping it would make its data differ.
	ErrUnknown = errors.New("log entry of an unknown version")
	// ErrCorrupt is returned for an entry that is not what was written.
	ErrCorrupt = errors.New("log entry is damaged")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendCommand appends one command with its length to b.
func AppendCommand(b []byte, c *kvv1.Command) ([]byte, error) {
	opts := proto.MarshalOptions{UseCachedSize: true}
	b = binary.AppendUvarint(b, uint64(proto.Size(c)))
	return opts.MarshalAppend(b, c)
}

// Checksum is kept beside an entry.
func Checksum(data []byte) []byte {
	return binary.BigEndian.AppendUint32(nil, crc32.Checksum(data, castagnoli))
}

// Verify compares an entry with its checksum.
func Verify(data, sum []byte) error {
	if len(sum) != 4 || binary.BigEndian.Uint32(sum) != crc32.Checksum(data, castagnoli) {
		return fmt.Errorf("%w: its checksum differs", ErrCorrupt)
	}
	return nil
}

// Decode returns the commands of an entry. They share no memory with data.
func Decode(data []byte) ([]*kvv1.Command, error) {
	if err := checkVersion(data); err != nil {
		return nil, err
	}
	var commands []*kvv1.Command
	for rest := data[1:]; len(rest) > 0; {
		command, after, err := cut(rest)
		if err != nil {
			return nil, err
		}
		c := new(kvv1.Command)
		if err := proto.Unmarshal(command, c); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
		}
		if c.Command == nil || len(c.ProtoReflect().GetUnknown()) > 0 {
			return nil, fmt.Errorf("%w: it holds a command that this pod does not know", ErrUnknown)
		}
		commands = append(commands, c)
		rest = after
	}
	return commands, nil
}
