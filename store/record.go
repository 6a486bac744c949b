package store

import (
	"encoding/binary"
	"hash/crc32"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Every record on disk starts with a CRC-32C (Castagnoli) over its key and the
// rest of its value, so that a record that bbolt returns for a wrong key, from
// a wrong page or with a flipped bit is noticed when it is read.
const checksumBytes = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, payload)
}

// seal fills in the checksum that record has left room for at its start.
func seal(key, record []byte) []byte {
	binary.LittleEndian.PutUint32(record, checksum(key, record[checksumBytes:]))
	return record
}

// unseal checks a record and returns its payload.
func unseal(key, record []byte) ([]byte, error) {
	if len(record) < checksumBytes {
		return nil, corrupt("record of %d bytes under key %.64x", len(record), key)
	}
	payload := record[checksumBytes:]
	if binary.LittleEndian.Uint32(record) != checksum(key, payload) {
		return nil, corrupt("checksum of the record under key %.64x", key)
	}
	return payload, nil
}

// version is one version of a key without its name: what a kv record holds.
type version struct {
	revision int64 // From the versionKey.
	create   int64
	version  int64 // 0: the key is deleted.
	lease    int64
	value    []byte
}

func (v *version) deleted() bool { return v.version == 0 }

// maxVersionHeader bounds what appendVersion adds to a value.
const maxVersionHeader = checksumBytes + 3*binary.MaxVarintLen64

// appendVersion appends the sealed record of v under versionKey.
func appendVersion(dst, versionKey []byte, v *version) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, uint64(v.version))
	if !v.deleted() {
		dst = binary.AppendUvarint(dst, uint64(v.revision-v.create))
		dst = binary.AppendUvarint(dst, uint64(v.lease))
		dst = append(dst, v.value...)
	}
	seal(versionKey, dst[at:])
	return dst
}

// readVersion checks and takes apart a kv record. The value shares memory with
// the record.
func readVersion(versionKey, record []byte) (version, error) {
	payload, err := unseal(versionKey, record)
	if err != nil {
		return version{}, err
	}
	r := reader{b: payload}
	v := version{revision: keyRevision(versionKey), version: r.int()}
	if !v.deleted() {
		v.create = v.revision - r.int()
		v.lease = r.int()
		v.value = r.b
	}
	if r.bad || v.create < 0 {
		return version{}, corrupt("kv record under key %.64x", versionKey)
	}
	return v, nil
}

// readExisting is readVersion, and says whether the key existed then.
func readExisting(versionKey, record []byte) (ver version, existed bool, err error) {
	ver, err = readVersion(versionKey, record)
	return ver, err == nil && !ver.deleted(), err
}

// keyValue copies v out of the store's memory.
func (v *version) keyValue(key []byte, keysOnly bool) *kvv1.KeyValue {
	kv := &kvv1.KeyValue{
		Key:            append([]byte(nil), key...),
		CreateRevision: v.create,
		ModRevision:    v.revision,
		Version:        v.version,
		Lease:          v.lease,
	}
	if !keysOnly {
		kv.Value = append([]byte(nil), v.value...)
	}
	return kv
}

// reader takes a payload apart. After the first field that does not fit, bad is
// set and everything reads as zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || r.bad {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) int() int64 {
	n := int64(r.uint())
	if n < 0 {
		r.bad = true
		return 0
	}
	return n
}

func (r *reader) bytes(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) fixed64() uint64 {
	b := r.bytes(8)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// change is one key that a revision changed.
type change struct {
	versionKey []byte
	record     []byte // Nil when it was read from disk.
}

// A log record lists the keys that one revision changed. Large transactions
// are cut into parts, so that a watcher never has to hold all of one.
var changesPerPart = 1024

func logKey(revision int64, part uint32) []byte {
	key := make([]byte, 0, 12)
	key = binary.BigEndian.AppendUint64(key, uint64(revision))
	return binary.BigEndian.AppendUint32(key, part)
}

func readLogKey(key []byte) (revision int64, part uint32, err error) {
	if len(key) != 12 {
		return 0, 0, corrupt("log key %.64x", key)
	}
	return int64(binary.BigEndian.Uint64(key)), binary.BigEndian.Uint32(key[8:]), nil
}

// appendLogRecord appends the sealed record of a part of a revision. hash is
// the running hash after the whole revision.
func appendLogRecord(dst, key []byte, hash uint64, changes []change) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, hash)
	for _, c := range changes {
		prefix := keyPrefix(c.versionKey)
		dst = binary.AppendUvarint(dst, uint64(len(prefix)))
		dst = append(dst, prefix...)
	}
	seal(key, dst[at:])
	return dst
}

// readLogRecord gives the running hash and the changes of one part, which share
// no memory with the record.
func readLogRecord(key, record []byte) (hash uint64, changes []change, err error) {
	revision, _, err := readLogKey(key)
	if err != nil {
		return 0, nil, err
	}
	payload, err := unseal(key, record)
	if err != nil {
		return 0, nil, err
	}
	r := reader{b: payload}
	hash = r.fixed64()
	for len(r.b) > 0 && !r.bad {
		prefix := r.bytes(r.uint())
		versionKey := appendRevision(append(make([]byte, 0, len(prefix)+revisionBytes), prefix...), revision)
		if checkVersionKey(versionKey) != nil {
			r.bad = true
			break
		}
		changes = append(changes, change{versionKey: versionKey})
	}
	if r.bad {
		return 0, nil, corrupt("log record of revision %d", revision)
	}
	return hash, changes, nil
}
