package store

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// A version of a key is stored under its versionKey:
//
//	escape(key)  0x00 0x01  big-endian(^revision)
//
// escape writes a zero byte as 0x00 0xff, so the terminator sorts before any
// continuation, and byte order is: by key, then newest first. For example, with
// revisions in brackets:
//
//	a[7] < a[3] < a\x00[9] < ab[4]
const (
	escapeByte     = 0x00
	escapedZero    = 0xff
	terminatorByte = 0x01
	revisionBytes  = 8
	suffixBytes    = 2 + revisionBytes
)

var errVersionKey = errors.New("malformed version key")

// appendKeyPrefix appends all of a versionKey but its revision: the common
// prefix of every version of key and of nothing else.
func appendKeyPrefix(dst, key []byte) []byte {
	for {
		i := bytes.IndexByte(key, escapeByte)
		if i < 0 {
			dst = append(dst, key...)
			return append(dst, escapeByte, terminatorByte)
		}
		dst = append(dst, key[:i]...)
		dst = append(dst, escapeByte, escapedZero)
		key = key[i+1:]
	}
}

func appendRevision(dst []byte, revision int64) []byte {
	return binary.BigEndian.AppendUint64(dst, ^uint64(revision))
}

func appendVersionKey(dst, key []byte, revision int64) []byte {
	return appendRevision(appendKeyPrefix(dst, key), revision)
}

// keyPrefix is the part of a versionKey that names the key.
func keyPrefix(versionKey []byte) []byte { return versionKey[:len(versionKey)-revisionBytes] }

func keyRevision(versionKey []byte) int64 {
	return int64(^binary.BigEndian.Uint64(versionKey[len(versionKey)-revisionBytes:]))
}

// userKey undoes the escaping. The result shares memory with versionKey where
// it can; copy it to keep it.
func userKey(versionKey []byte) []byte {
	escaped := versionKey[:len(versionKey)-suffixBytes]
	if bytes.IndexByte(escaped, escapeByte) < 0 {
		return escaped
	}
	key := make([]byte, 0, len(escaped))
	for i := 0; i < len(escaped); i++ {
		key = append(key, escaped[i])
		if escaped[i] == escapeByte {
			i++ // The escapedZero that follows.
		}
	}
	return key
}

// checkVersionKey says whether bytes from disk are a versionKey; only then may
// the functions above take them apart.
func checkVersionKey(versionKey []byte) error {
	if len(versionKey) < suffixBytes {
		return errVersionKey
	}
	escaped := versionKey[:len(versionKey)-suffixBytes]
	terminator := versionKey[len(escaped) : len(escaped)+2]
	if terminator[0] != escapeByte || terminator[1] != terminatorByte || keyRevision(versionKey) < 0 {
		return errVersionKey
	}
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != escapeByte {
			continue
		}
		if i++; i == len(escaped) || escaped[i] != escapedZero {
			return errVersionKey
		}
	}
	return nil
}

// span is a range of keys in the form of keyPrefixes: from start to before end.
// A nil end means to the last key.
type span struct {
	start, end []byte
	single     bool
}

// newSpan reads the (key, range_end) pair of a request.
func newSpan(key, rangeEnd []byte) span {
	s := span{start: appendKeyPrefix(nil, key)}
	switch {
	case len(rangeEnd) == 0:
		s.single = true
	case len(rangeEnd) == 1 && rangeEnd[0] == 0:
		if len(key) == 1 && key[0] == 0 {
			s.start = nil // Every key, also one that sorts before "\x00".
		}
	default:
		s.end = appendKeyPrefix(nil, rangeEnd)
	}
	return s
}

// contains takes a keyPrefix or a versionKey.
func (s span) contains(key []byte) bool {
	if s.single {
		return bytes.HasPrefix(key, s.start)
	}
	return bytes.Compare(key, s.start) >= 0 && s.before(key)
}

// before says that key lies before the end of the span.
func (s span) before(key []byte) bool {
	if s.single {
		return bytes.HasPrefix(key, s.start)
	}
	return s.end == nil || bytes.Compare(key, s.end) < 0
}
