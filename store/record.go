package store

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"

	"go.etcd.io/bbolt"

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
	if len(record) < checksumBytes || len(key) > bbolt.MaxKeySize {
		return nil, corrupt("record of %d bytes under key %.64x", len(record), key)
	}
	payload := record[checksumBytes:]
	if binary.LittleEndian.Uint32(record) != checksum(key, payload) {
		return nil, corrupt("checksum of the record under key %.64x", key)
	}
	return payload, nil
}

// place is where the log has a version: under the revision that wrote it, as
// its part-th change. The zero place is none.
type place struct {
	revision int64
	part     uint32
}

const placeBytes = 12

// logKey is the key of a place in the log: byte order is the order of writing.
func (p place) logKey() []byte { return p.appendLogKey(make([]byte, 0, placeBytes)) }

func (p place) appendLogKey(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.revision))
	return binary.BigEndian.AppendUint32(dst, p.part)
}

func readLogKey(key []byte) (place, error) {
	if len(key) != placeBytes || key[0]>>7 != 0 {
		return place{}, corrupt("log key %.64x", key)
	}
	return place{int64(binary.BigEndian.Uint64(key)), binary.BigEndian.Uint32(key[8:])}, nil
}

func (p place) compare(other place) int {
	return cmp.Or(cmp.Compare(p.revision, other.revision), cmp.Compare(p.part, other.part))
}

// version is one version of a key without its name.
type version struct {
	place   place
	create  int64
	version int64 // 0: the key is deleted.
	lease   int64

	// whole: the rest is there too, which an index record does not have.
	whole       bool
	prev        place // The version that this one replaced.
	prevDeleted bool  // That one is a deletion; compaction may have removed it.
	value       []byte

	// size is the value's, if it is not whole; below 0: the index does not say.
	size int64
}

func (v *version) exists() bool { return v.version > 0 }

// valueSize is not known of an index record that was written before there was a tenant.
func (v *version) valueSize() (size int64, known bool) {
	if v.whole {
		return int64(len(v.value)), true
	}
	return v.size, v.size >= 0
}

// A log record is one version with the name of its key:
//
//	checksum (4), running hash after the whole revision (8),
//	revision and part of the version before (12; top bit of the part: a deletion),
//	body: length of the key, key, version, and unless it is a deletion
//	revision - create_revision, lease, value
//
// Fixed numbers are little-endian, those of the body uvarints. The running hash
// covers bodies only: a replica that has not yet removed an old deletion names
// it as the version before, another one has none to name. A record without a
// body belongs to a revision that changed nothing.
const (
	hashAt        = checksumBytes
	prevAt        = hashAt + 8
	bodyAt        = prevAt + placeBytes
	prevDeletedAt = 31
	// maxLogHeader bounds what appendLogRecord adds to a key and a value.
	maxLogHeader = bodyAt + 4*binary.MaxVarintLen64
)

// appendLogRecord appends the record of v, which sealLogRecord completes.
func appendLogRecord(dst, key []byte, v *version) []byte {
	part := v.prev.part
	if v.prevDeleted {
		part |= 1 << prevDeletedAt
	}
	dst = append(dst, make([]byte, prevAt)...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(v.prev.revision))
	dst = binary.LittleEndian.AppendUint32(dst, part)
	dst = binary.AppendUvarint(dst, uint64(len(key)))
	dst = append(dst, key...)
	dst = binary.AppendUvarint(dst, uint64(v.version))
	if v.exists() {
		dst = binary.AppendUvarint(dst, uint64(v.place.revision-v.create))
		dst = binary.AppendUvarint(dst, uint64(v.lease))
		dst = append(dst, v.value...)
	}
	return dst
}

// sealLogRecord fills in the hash and the checksum.
func sealLogRecord(at place, record []byte, hash uint64) []byte {
	binary.LittleEndian.PutUint64(record[hashAt:], hash)
	return seal(at.logKey(), record)
}

func recordHash(record []byte) uint64 { return binary.LittleEndian.Uint64(record[hashAt:]) }

// recordKey is the key in a record that is whole.
func recordKey(record []byte) []byte {
	r := reader{b: record[bodyAt:]}
	n := r.uint()
	return r.bytes(n)
}

// readLogRecord checks and takes apart a record of the log. Key and value share
// memory with it. The key is nil when the revision changed nothing.
func readLogRecord(at place, record []byte) (key []byte, v version, err error) {
	if _, err := unseal(at.logKey(), record); err != nil {
		return nil, version{}, err
	}
	return takeApart(at, record)
}

// takeApart is readLogRecord of a record in memory.
func takeApart(at place, record []byte) (key []byte, v version, err error) {
	v = version{place: at, whole: true}
	if len(record) < bodyAt {
		return nil, version{}, corrupt("log record of revision %d", at.revision)
	}
	v.prev.revision = int64(binary.LittleEndian.Uint64(record[prevAt:]))
	v.prev.part = binary.LittleEndian.Uint32(record[prevAt+8:])
	v.prevDeleted = v.prev.part>>prevDeletedAt != 0
	v.prev.part &^= 1 << prevDeletedAt
	r := reader{b: record[bodyAt:]}
	if len(r.b) == 0 {
		return nil, v, nil
	}
	key = r.bytes(r.uint())
	if v.version = r.int(); v.exists() {
		v.create = v.place.revision - r.int()
		v.lease = r.int()
		v.value = r.b
	}
	if r.bad || len(key) == 0 || v.create < 0 || v.prev.revision < 0 || v.prev.revision >= at.revision {
		return nil, version{}, corrupt("log record of revision %d", at.revision)
	}
	return key, v, nil
}

// An index record says of a key where its newest version is, and all of it but
// the value: checksum, then as uvarints revision, part, version, and unless it
// is a deletion revision - create_revision and lease, and in the tenants' format the
// size of the value: what a tenant has is counted by it.
func indexRecord(key []byte, v *version, sized bool) []byte {
	record := make([]byte, checksumBytes, checksumBytes+6*binary.MaxVarintLen64)
	record = binary.AppendUvarint(record, uint64(v.place.revision))
	record = binary.AppendUvarint(record, uint64(v.place.part))
	record = binary.AppendUvarint(record, uint64(v.version))
	if v.exists() {
		record = binary.AppendUvarint(record, uint64(v.place.revision-v.create))
		record = binary.AppendUvarint(record, uint64(v.lease))
		if size, known := v.valueSize(); sized && known {
			record = binary.AppendUvarint(record, uint64(size))
		}
	}
	return seal(key, record)
}

func readIndexRecord(key, record []byte) (version, error) {
	payload, err := unseal(key, record)
	if err != nil {
		return version{}, err
	}
	r := reader{b: payload}
	v := version{place: place{r.int(), uint32(r.uint())}, version: r.int(), size: -1}
	if v.exists() {
		v.create = v.place.revision - r.int()
		v.lease = r.int()
		if len(r.b) > 0 {
			v.size = r.int()
		}
	}
	if r.bad || len(r.b) > 0 || v.place.revision <= 0 || v.create < 0 {
		return version{}, corrupt("index record of key %.64q", key)
	}
	return v, nil
}

// keyValue copies v out of the store's memory. Unless keysOnly, v must be whole.
func (v *version) keyValue(key []byte, keysOnly bool) *kvv1.KeyValue {
	kv := &kvv1.KeyValue{
		Key:            append([]byte(nil), key...),
		CreateRevision: v.create,
		ModRevision:    v.place.revision,
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
