package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// FuzzPlace: the codec gives back what went in, byte order is the order of
// writing, and what readLogKey accepts is what it would write.
func FuzzPlace(f *testing.F) {
	f.Add(int64(1), uint32(0), int64(1), uint32(1), []byte("twelve bytes"))
	f.Add(int64(255), uint32(256), int64(256), uint32(255), []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, revisionA int64, partA uint32, revisionB int64, partB uint32, raw []byte) {
		a, b := place{revisionA & (1<<63 - 1), partA}, place{revisionB & (1<<63 - 1), partB}
		if again, err := readLogKey(a.logKey()); err != nil || again != a {
			t.Fatalf("%v is read back as %v: %v", a, again, err)
		}
		if got := bytes.Compare(a.logKey(), b.logKey()); got != a.compare(b) {
			t.Fatalf("%v and %v compare as %d", a, b, got)
		}
		if at, err := readLogKey(raw); err == nil && !bytes.Equal(at.logKey(), raw) {
			t.Fatalf("%x is accepted, and written as %x", raw, at.logKey())
		}
	})
}

// FuzzSpan: a span contains the keys that a request means.
func FuzzSpan(f *testing.F) {
	for _, keys := range [][3]string{{"a", "", "a"}, {"a", "b", "aa"}, {"\x00", "\x00", "\x00"}, {"a\x00", "\x00", "a"}, {"b", "a", "b"}} {
		f.Add([]byte(keys[0]), []byte(keys[1]), []byte(keys[2]))
	}
	f.Fuzz(func(t *testing.T, key, rangeEnd, other []byte) {
		if newSpan(key, rangeEnd).contains(other) != inRange(string(other), key, rangeEnd) {
			t.Fatalf("the span from %x to %x contains %x", key, rangeEnd, other)
		}
	})
}

// FuzzRecords: no decoder panics; what it accepts is what the encoder wrote,
// and one flipped bit makes it an error.
func FuzzRecords(f *testing.F) {
	key, at := []byte("key"), place{9, 1}
	live := version{place: at, create: 3, version: 4, lease: 5, prev: place{7, 2}, value: []byte("value")}
	deletion := version{place: at, prev: place{8, 0}, prevDeleted: true}
	request := request{number: 4, index: 7, result: []byte("result")}
	st := newState()
	for _, v := range []version{live, deletion} {
		f.Add(at.logKey(), sealLogRecord(at, appendLogRecord(nil, key, &v), 77), uint16(99), false)
		f.Add(key, indexRecord(key, &v, false), uint16(40), false)
		f.Add(key, indexRecord(key, &v, true), uint16(50), false)
	}
	f.Add([]byte("0123456789abcdef01234567"), request.encode([]byte("0123456789abcdef01234567")), uint16(8), false)
	f.Add(stateKey, st.encode(), uint16(100), false)
	f.Add(scrubKey, encodeScrub(at), uint16(33), false)
	f.Add(key, []byte("\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), uint16(0), true)
	f.Fuzz(func(t *testing.T, key, record []byte, flip uint16, reseal bool) {
		record = bytes.Clone(record)
		if reseal && len(record) >= checksumBytes {
			seal(key, record) // Nonsense with a right checksum.
		}
		decoders := map[string]func([]byte) error{
			"index": func(r []byte) error {
				ver, err := readIndexRecord(key, r)
				if err == nil && len(indexRecord(key, &ver, true)) > len(r) {
					t.Fatalf("%x is read as %+v", r, ver)
				}
				return err
			},
			"log": func(r []byte) error {
				at, err := readLogKey(key)
				if err != nil {
					return err
				}
				named, ver, err := readLogRecord(at, r)
				if err == nil && named != nil && len(appendLogRecord(nil, named, &ver)) > len(r) {
					t.Fatalf("%x is read as %+v", r, ver)
				}
				return err
			},
			"request": func(r []byte) error { _, err := readRequest(key, r); return err },
			"state":   func(r []byte) error { _, err := decodeState(r); return err },
			"scrub":   func(r []byte) error { _, err := decodeScrub(r); return err },
		}
		for name, decode := range decoders {
			if decode(record) != nil || len(record) == 0 {
				continue
			}
			damaged := bytes.Clone(record)
			damaged[int(flip/8)%len(damaged)] ^= 1 << (flip % 8)
			if err := decode(damaged); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s: %x is damaged as %x and read: %v", name, record, damaged, err)
			}
		}
		_, _ = decodeResult(record)
	})
}

// FuzzCommand applies any command that decodes: it never panics, and a refusal
// changes nothing.
func FuzzCommand(f *testing.F) {
	g := newGenerator(newRand(1), newModel())
	for range 60 {
		encoded, err := proto.Marshal(g.command())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	s, err := Open(Options{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { closeChecked(f, s) })
	s.Apply(1, 1, []*kvv1.Command{put("a", "1"), put("b\x00", "2"), {Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{Id: 1, TtlSeconds: 1}}}})
	f.Fuzz(func(t *testing.T, encoded []byte) {
		command := &kvv1.Command{}
		if proto.Unmarshal(encoded, command) != nil {
			return
		}
		revision, before, err := s.Hash(0)
		if err != nil {
			t.Fatal(err)
		}
		_, leases := s.Leases()
		result := s.Apply(s.Applied()+1, 1, []*kvv1.Command{command})[0]
		if s.failing.Load() {
			t.Fatalf("the store failed: %v", <-s.Failed())
		}
		after, hash, err := s.Hash(0)
		_, leasesAfter := s.Leases()
		if result.GetError() != nil && (after != revision || hash != before || leases != leasesAfter) || err != nil {
			t.Fatalf("%v: refused (%v), and changed revision %d to %d", command, result, revision, after)
		}
		if result.Result == nil {
			t.Fatalf("%v has no result", command)
		}
	})
}

// nilCommands are what no decoder makes, but a caller may.
func TestNilCommands(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	for i, command := range []*kvv1.Command{
		nil,
		{Command: &kvv1.Command_Put{}},
		{Command: &kvv1.Command_Delete{}},
		{Command: &kvv1.Command_Txn{}},
		{Command: &kvv1.Command_Batch{}},
		{Command: &kvv1.Command_Batch{Batch: &kvv1.WriteBatch{Writes: []*kvv1.Write{nil, {Write: &kvv1.Write_Put{}}, {Write: &kvv1.Write_Txn{}}, {Write: &kvv1.Write_Delete{}}}}}},
		{Command: &kvv1.Command_Grant{}},
		{Command: &kvv1.Command_Revoke{}},
		{Command: &kvv1.Command_Compact{}},
		txnOf(nil, nil),
		txnOf(&kvv1.Op{Op: &kvv1.Op_Range{}}),
		txnOf(&kvv1.Op{Op: &kvv1.Op_Txn{}}, &kvv1.Op{Op: &kvv1.Op_Put{}}, &kvv1.Op{Op: &kvv1.Op_Delete{}}),
		{Command: &kvv1.Command_Txn{Txn: &kvv1.TxnRequest{Compare: []*kvv1.Compare{nil}}}},
	} {
		result := d.s.Apply(d.s.Applied()+1, 1, []*kvv1.Command{command})[0]
		if d.s.failing.Load() || d.s.Status().Revision != firstRevision {
			t.Fatalf("command %d: %v", i, result)
		}
	}
}

// snapshotFile is a snapshot of a store with a bit of everything.
func snapshotFile(t testing.TB) []byte {
	t.Helper()
	d := newDriver(t, newHistory(), 4<<10)
	g := newGenerator(newRand(3), d.h.model)
	for range 60 {
		d.do(g.entry()...)
	}
	if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	snapshotTo(t, d.s, func(snapshot replication.Snapshot) error {
		n, err := io.Copy(&stream, snapshot)
		if n != snapshot.Size() {
			t.Fatalf("the snapshot has %d bytes, it said %d", n, snapshot.Size())
		}
		return err
	})
	return stream.Bytes()
}

// FuzzReceive damages a snapshot: receiving it is an error, and no database is
// left. Frames of the fuzzer's own making never panic.
func FuzzReceive(f *testing.F) {
	whole := snapshotFile(f)
	f.Add(uint64(0), byte(1), uint16(0), []byte{})
	f.Add(uint64(20), byte(1), uint16(0), []byte{})
	f.Add(uint64(28), byte(0), uint16(1), []byte{})
	f.Add(uint64(len(whole)-1), byte(0), uint16(1), []byte{})
	f.Add(uint64(len(whole)), byte(0), uint16(0), []byte("more"))
	f.Add(uint64(5000), byte(0), uint16(0), []byte{0})
	f.Add(uint64(28), byte(0), uint16(8), []byte{0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(uint64(1<<63), byte(0), uint16(0), whole[:100])
	dir := tempDir(f)
	f.Fuzz(func(t *testing.T, at uint64, flip byte, cut uint16, insert []byte) {
		var stream []byte
		if at < 1<<63 {
			at %= uint64(len(whole)) + 1
			rest := whole[at:]
			stream = append(append(bytes.Clone(whole[:at]), insert...), rest[min(int(cut), len(rest)):]...)
			if int(at) < len(stream) {
				stream[at] ^= flip
			}
		} else { // All of it the fuzzer's, with a right header.
			stream = binary.LittleEndian.AppendUint64([]byte(snapshotMagic), at&0xffff)
			stream = binary.LittleEndian.AppendUint32(stream, checksum(nil, stream))
			stream = append(stream, insert...)
		}
		if bytes.Equal(stream, whole) {
			return
		}
		if _, err := Receive(dir, bytes.NewReader(stream)); err == nil || Exists(dir) {
			t.Fatalf("a damaged snapshot was received: %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Fatalf("%v is left: %v", left, err)
		}
	})
}

// TestReceiveDamaged damages a snapshot in many places of every frame.
func TestReceiveDamaged(t *testing.T) {
	whole := snapshotFile(t)
	for i := range 300 {
		r := newRand(uint64(i))
		damaged := bytes.Clone(whole)
		at := r.IntN(len(whole))
		switch i % 4 {
		case 0:
			damaged[at] ^= 1 << r.IntN(8)
		case 1:
			damaged = damaged[:at]
		case 2:
			damaged = append(damaged[:at], damaged[min(len(damaged), at+1+r.IntN(100)):]...)
		case 3:
			damaged = append(damaged[:at], append([]byte{byte(r.Uint32())}, whole[at:]...)...)
		}
		dir := tempDir(t)
		if _, err := Receive(dir, bytes.NewReader(damaged)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("damage %d at %d: %v", i, at, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Fatalf("%v is left: %v", left, err)
		}
	}
}

// What was damaged in the sender's file does not get into the receiver's: what
// Receive accepts is sound.
//
// Scenario: S44
func TestReceiveFromADamagedFile(t *testing.T) {
	received := tempDir(t)
	if _, err := Receive(received, bytes.NewReader(snapshotFile(t))); err != nil {
		t.Fatal(err)
	}
	file := copyFile(databaseOf(received)).content
	file = file[:(len(bytes.TrimRight(file, "\x00"))+pageBytes-1)/pageBytes*pageBytes]
	refused := 0
	for i := range 400 {
		damaged, what := damage(newRand(uint64(i)), file, i)
		spareSizes(damaged, file)
		if bytes.Equal(damaged, file) || !bytes.Equal(damaged[:2*pageBytes], file[:2*pageBytes]) {
			continue // bbolt writes the first two pages of a copy itself.
		}
		var stream bytes.Buffer
		if err := frameStream(&stream, damaged); err != nil {
			t.Fatal(err)
		}
		dir := tempDir(t)
		_, err := Receive(dir, &stream)
		switch {
		case errors.Is(err, ErrCorrupt):
			refused++
			continue
		case err != nil:
			t.Fatalf("%s: %v", what, err)
		}
		s, err := Open(Options{Dir: dir})
		if err == nil {
			err = errors.Join(s.Check(context.Background()), s.Close())
		}
		if err != nil {
			t.Errorf("%s: it was received, and is damaged: %v", what, err)
		}
	}
	if refused < 100 {
		t.Errorf("%d damaged files were refused", refused)
	}
}

// TestVerify accepts a whole snapshot, finds damage in a file whose checksums
// are right, and leaves nothing behind.
func TestVerify(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "backup")
	whole := snapshotFile(t)
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	var done int64
	info, err := Verify(context.Background(), path, func(n, total int64) { done = n })
	if err != nil || done != int64(len(whole)) || info.Revision == 0 || info.Bytes == 0 {
		t.Fatalf("verify: %+v, %d of %d bytes, %v", info, done, len(whole), err)
	}
	received := tempDir(t)
	if _, err := Receive(received, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	file := copyFile(databaseOf(received)).content
	for i := range 200 {
		damaged, what := damage(newRand(uint64(i)), bytes.TrimRight(file, "\x00"), i)
		if raceDetector && structureOf(damaged) != nil {
			continue
		}
		var stream bytes.Buffer
		if err := frameStream(&stream, damaged); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, stream.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(context.Background(), path, nil); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Fatalf("%v is left: %v", left, err)
	}
}

// frameStream makes a stream of a file that is damaged already.
func frameStream(w io.Writer, file []byte) error {
	header := binary.LittleEndian.AppendUint64([]byte(snapshotMagic), uint64(len(file)))
	header = binary.LittleEndian.AppendUint32(header, checksum(nil, header))
	if _, err := w.Write(header); err != nil {
		return err
	}
	frames := &frameWriter{w: w, buffer: make([]byte, frameHeader, frameHeader+frameBytes)}
	if _, err := frames.Write(file); err != nil {
		return err
	}
	return frames.end()
}
