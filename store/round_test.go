package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// verified runs a round to its end.
func verified(s *Store, bytes int) error {
	for round, more := s.NewRound(), true; more; {
		var err error
		if _, more, err = round.Step(context.Background(), bytes); err != nil {
			return err
		}
	}
	return nil
}

// partsOf are all parts of a store, of its keys and of its history.
func partsOf(s *Store) (parts []replication.Part, err error) {
	for _, history := range []bool{false, true} {
		end, err := s.PartEnd(context.Background(), history)
		if err != nil {
			return nil, err
		}
		bounds := replication.Part{History: history, To: end}
		for more := true; more; {
			var p replication.Part
			if p, more, err = s.Part(context.Background(), bounds); err != nil {
				return nil, err
			}
			parts = append(parts, p)
			bounds.From = p.To
		}
	}
	return parts, nil
}

// differing is how many parts of a store another one contradicts.
func differing(s, other *Store) (n int, err error) {
	parts, err := partsOf(s)
	for _, p := range parts {
		theirs, err := other.PartAgain(context.Background(), p)
		if err != nil {
			return n, err
		}
		if theirs.Hash != p.Hash {
			n++
		}
	}
	return n, err
}

// Three stores apply one log, each in its own time: they flush, compact, end leases,
// are killed and opened again, or restored from each other. Rounds over each of them, with all of that in between
// their steps, find nothing, and all parts agree.
func TestRoundsAgree(t *testing.T) {
	seeds(t, 25, nil, func(t *testing.T, seed uint64) {
		r := &roundsRun{t: t, h: newHistory()}
		r.generator = newGenerator(newRand(seed), r.h.model)
		for i := range r.stores {
			r.stores[i].d = newDriver(t, r.h, 1<<(4+r.IntN(14)))
			r.stores[i].begin()
		}
		for range 400 {
			r.step()
		}
		if !t.Failed() {
			r.finish()
		}
	})
}

type roundsRun struct {
	*generator
	t      *testing.T
	h      *history
	stores [3]roundsStore
}

type roundsStore struct {
	d     *driver
	round *Round
	next  replication.Part // Where it begins.
}

// catchUp compares no answers: that is for TestRandom.
func (s *roundsStore) catchUp(upTo uint64) {
	for index := s.d.s.Applied() + 1; index <= upTo; index++ {
		s.d.s.Apply(index, 1, s.d.h.entries[index-1].commands)
	}
}

func (s *roundsStore) begin() { s.round = s.d.s.NewRound() }

func (r *roundsRun) step() {
	s := &r.stores[r.IntN(len(r.stores))]
	switch n := r.IntN(40); {
	case n < 12:
		r.h.add(r.entry()...)
	case n < 18:
		if behind := r.h.last() - s.d.s.Applied(); behind > 0 {
			s.catchUp(r.h.last() - r.Uint64N(behind))
		}
	case n < 20:
		if err := s.d.s.Flush(context.Background(), s.d.s.Applied()); err != nil {
			r.t.Fatal(err)
		}
	case n < 21:
		s.d.waitScrubbed()
	case n < 22:
		s.d.kill()
		s.d.open()
		s.begin()
	case n < 23:
		r.restore(s)
	case n < 32:
		_, more, err := s.round.Step(context.Background(), r.IntN(4<<10))
		if err != nil {
			r.t.Fatalf("a step of a round: %v", err)
		}
		if !more {
			s.begin()
		}
	default:
		r.compare(s)
	}
}

// restore gives a store the content of another one that is ahead, in the middle of a round.
func (r *roundsRun) restore(s *roundsStore) {
	other := &r.stores[r.IntN(len(r.stores))]
	snapshotTo(r.t, other.d.s, func(snapshot replication.Snapshot) error {
		if snapshot.Position().Index <= s.d.s.Applied() {
			return nil
		}
		return s.d.s.Restore(snapshot)
	})
}

func (r *roundsRun) compare(s *roundsStore) {
	own, more, err := s.d.s.Part(context.Background(), s.next)
	if err != nil {
		r.t.Fatal(err)
	}
	if s.next.From = own.To; !more {
		s.next = replication.Part{History: !own.History}
	}
	for i := range r.stores {
		other := r.stores[i].d
		if other.s.Revision() < own.Revision {
			r.stores[i].catchUp(s.d.s.Applied())
		}
		theirs, err := other.s.PartAgain(context.Background(), own)
		if refusal.Reason(err) == kvv1.ErrorReason_ERROR_REASON_COMPACTED {
			continue
		}
		if err != nil || theirs.Hash != own.Hash || theirs.Versions != own.Versions {
			r.t.Fatalf("%+v is %+v in store %d: %v", own, theirs, i, err)
		}
	}
}

func (r *roundsRun) finish() {
	for i := range r.stores {
		r.stores[i].catchUp(r.h.last())
	}
	for i := range r.stores {
		s := r.stores[i].d.s
		if err := verified(s, 1<<r.IntN(20)); err != nil {
			r.t.Errorf("store %d: %v", i, err)
		}
		if n, err := differing(s, r.stores[(i+1)%len(r.stores)].d.s); n > 0 || err != nil {
			r.t.Errorf("store %d: %d parts differ, %v", i, n, err)
		}
	}
}

// Whatever bits are flipped: after a round over the store, and a comparison of its parts
// with another's, nothing is read wrong.
func TestRoundFindsDamage(t *testing.T) {
	seeds(t, 2, corruptionRegressions, func(t *testing.T, seed uint64) {
		run := newCrashRun(t, seed)
		run.d.options.TableBytes = 1 << 20
		run.write(func() {})
		copied := copyFile(databaseOf(run.d.options.Dir))
		original := bytes.TrimRight(copied.content, "\x00")
		run.d.open()
		defer run.d.close()
		found, compared := 0, 0
		for i := range 400 {
			damaged, what := damage(run.Rand, original, i)
			spareSizes(damaged, original)
			if raceDetector && structureOf(damaged) != nil {
				continue
			}
			byRound, byPart, err := run.roundOver(damaged, copied.size)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if byRound {
				found++
			}
			if byPart {
				compared++
			}
		}
		t.Logf("of 400 damaged files %d were found by a round, %d by another store", found, compared)
	})
}

func (run *crashRun) roundOver(file []byte, size int64) (byRound, byPart bool, err error) {
	dir := tempDir(run.t)
	defer os.RemoveAll(dir)
	path := databaseOf(dir)
	if err := errors.Join(os.WriteFile(path, file, 0o600), os.Truncate(path, size)); err != nil {
		return false, false, err
	}
	s, err := Open(Options{Dir: dir})
	if err != nil {
		return false, false, errorUnless(err, ErrCorrupt)
	}
	defer s.Close()
	for index := s.Applied() + 1; index <= run.h.last(); index++ {
		if e := run.h.entries[index-1]; e.configuration == nil {
			s.Apply(index, 1, e.commands)
		}
	}
	if s.failing.Load() {
		return false, false, errorUnless(<-s.Failed(), ErrCorrupt)
	}
	if err := verified(s, 4<<10); err != nil {
		return true, false, errorUnless(err, ErrCorrupt)
	}
	n, err := differing(s, run.d.s)
	if err != nil || n > 0 {
		return false, true, errorUnless(err, ErrCorrupt)
	}
	if err := run.read(s); err != nil {
		return false, false, fmt.Errorf("a round finds nothing, and then: %w", err)
	}
	return false, false, nil
}

// edit changes records of a closed store's file, and seals them again. change returns
// nil for a record that stays, and an empty one for what is deleted.
func edit(t *testing.T, dir string, bucket []byte, change func(key, record []byte) []byte) {
	t.Helper()
	db, err := bbolt.Open(databaseOf(dir), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	edited := 0
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		return b.ForEach(func(key, record []byte) error {
			changed := change(bytes.Clone(key), bytes.Clone(record))
			if changed == nil || edited > 0 {
				return nil
			}
			edited++
			if len(changed) == 0 {
				return b.Delete(bytes.Clone(key))
			}
			return b.Put(bytes.Clone(key), seal(key, changed))
		})
	})
	if err := errors.Join(err, db.Close()); err != nil || edited == 0 {
		t.Fatalf("%d edited, %v", edited, err)
	}
}

// A record of the file is edited together with its checksum: the pod would serve it, and
// no checksum tells. A round over the file finds it where the store says it twice, and
// else the comparison of parts with another store.
func TestEditedRecord(t *testing.T) {
	ofKey := func(name string) func(record []byte) bool {
		return func(record []byte) bool { return string(recordKey(record)) == name }
	}
	value := func(name string) func(key, record []byte) []byte {
		return func(_, record []byte) []byte {
			if !ofKey(name)(record) {
				return nil
			}
			record[len(record)-1] ^= 1
			return record
		}
	}
	missing := func(name string) func(key, record []byte) []byte {
		return func(_, record []byte) []byte {
			if !ofKey(name)(record) {
				return nil
			}
			return []byte{}
		}
	}
	index := func(change func(v *version)) func(key, record []byte) []byte {
		return func(key, record []byte) []byte {
			if string(key) != "old" {
				return nil
			}
			v, err := readIndexRecord(key, record)
			if err != nil {
				t.Fatal(err)
			}
			change(&v)
			return indexRecord(key, &v, true)
		}
	}
	for _, test := range []struct {
		name     string
		bucket   []byte
		change   func(key, record []byte) []byte
		compared bool // Only another store knows better.
	}{
		{"a value from before the compaction", bucketLog, value("old"), true},
		{"a value from after it", bucketLog, value("new"), false},
		{"a value from before it that was replaced after it", bucketLog, value("hot"), true},
		{"a value from after it that was replaced", bucketLog, value("warm"), false},
		{"a running hash", bucketLog, func(_, record []byte) []byte {
			if !ofKey("new")(record) {
				return nil
			}
			record[hashAt] ^= 1
			return record
		}, false},
		{"the version before", bucketLog, func(_, record []byte) []byte {
			if at := int64(binary.LittleEndian.Uint64(record[prevAt:])); !ofKey("warm")(record) || at == 0 {
				return nil
			}
			record[prevAt]--
			return record
		}, false},
		{"a log record is missing", bucketLog, missing("new"), false},
		{"an old log record is missing", bucketLog, missing("old"), true},
		{"a lease in the index", bucketKeys, index(func(v *version) { v.lease = 9 }), false},
		{"a size in the index", bucketKeys, index(func(v *version) { v.size = 1 << 20 }), false},
		{"a place in the index", bucketKeys, index(func(v *version) { v.place.revision-- }), false},
		{"an index record is missing", bucketKeys, func(key, _ []byte) []byte {
			if string(key) != "old" {
				return nil
			}
			return []byte{}
		}, false},
		{"a key that is said to be deleted", bucketKeys, index(func(v *version) { *v = version{place: place{revision: 13}} }), false},
		{"a key of a lease is missing", bucketLeaseKeys, func(_, _ []byte) []byte { return []byte{} }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, other := editable(t), editable(t)
			dir := d.options.Dir
			d.close()
			edit(t, dir, test.bucket, test.change)
			s, err := Open(d.options)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			byRound := verified(s, 4<<10)
			if byRound != nil && !errors.Is(byRound, ErrCorrupt) || test.compared == (byRound != nil) {
				t.Errorf("the round: %v", byRound)
			}
			if !test.compared {
				return
			}
			if n, err := differing(s, other.s); n == 0 && err == nil {
				t.Error("another store finds nothing")
			}
			n, err := differing(other.s, s)
			if n == 0 && !errors.Is(err, ErrCorrupt) {
				t.Errorf("%d parts of another store are others here, %v", n, err)
			}
		})
	}
}

// Users and tenants change the file's format at once, and its state with the next flush.
func TestRoundsWithTenants(t *testing.T) {
	d := newDriver(t, newHistory(), 1<<20)
	for _, command := range []*kvv1.Command{
		put("a/1", "v"), setTenant(&kvv1.Tenant{Name: "a", Prefix: []byte("a/")}), put("a/2", "v"), del("a/1", ""),
	} {
		d.do(command)
		for i := range 3 {
			if err := verified(d.s, 64); err != nil {
				t.Fatalf("after %v: %v", command, err)
			}
			if i == 0 {
				d.countAll("a")
				if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
					t.Fatal(err)
				}
			} else {
				d.close()
				d.open()
			}
		}
	}
}

// The file's state is edited under the store, which has it in memory.
func TestEditedState(t *testing.T) {
	d := editable(t)
	written := d.s.flusher.durableState()
	put := func(st state) {
		t.Helper()
		if err := d.s.flusher.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(stateKey, st.encode()) }); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(st *state){
		"the running hash": func(st *state) { st.Hash++ },
		"the membership":   func(st *state) { st.Configuration = []byte("another") },
		"what is kept":     func(st *state) { st.Compacted-- },
	} {
		edited := written
		change(&edited)
		put(edited)
		if _, _, err := d.s.NewRound().Step(context.Background(), 1); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	put(written)
	if err := verified(d.s, 4<<10); err != nil {
		t.Error(err)
	}
	if d.s.failing.Load() {
		<-d.s.Failed()
	}
}

// What is found names no keys, also where the walk over them panics.
func TestDamageNamesNoKeys(t *testing.T) {
	d := newDriver(t, newHistory(), 1<<20)
	for i := range 200 { // Too many for the root's page.
		d.do(put(fmt.Sprintf("secret-%d", 100+i), "v"))
	}
	d.close()
	path := databaseOf(d.options.Dir)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(content, []byte("secret-105"), []byte("secret-005")), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(d.options)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, _, err = s.Part(context.Background(), replication.Part{})
	if !s.failing.Load() {
		t.Fatal("no damage was found")
	}
	for _, err := range []error{err, <-s.Failed(), verified(s, 1<<10)} {
		said := fmt.Sprint(err)
		if !errors.Is(err, ErrCorrupt) || strings.Contains(said, "secret") || strings.Contains(said, fmt.Sprintf("%x", "secret")) {
			t.Error(said)
		}
	}
}

// A revision with many changes is read in parts, each from where it begins.
func TestPartsOfOneRevision(t *testing.T) {
	d := newDriver(t, newHistory(), 1<<20)
	const keys = 2000
	for i := range keys {
		d.do(put(fmt.Sprintf("k%04d", i), "v"))
	}
	d.do(&kvv1.Command{Command: &kvv1.Command_Delete{Delete: &kvv1.DeleteRequest{Key: []byte("k"), RangeEnd: []byte("l")}}})
	for _, where := range []string{"memory", "the file"} {
		v, err := d.s.view(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		next := uint32(keys - 10)
		err = v.events(place{v.revision, next}, v.revision, func(_ []byte, ver *version) error {
			if ver.place != (place{v.revision, next}) {
				return fmt.Errorf("%v comes, %d is due", ver.place, next)
			}
			next++
			return nil
		})
		v.close()
		if err != nil || next != keys {
			t.Errorf("in %s: up to change %d, %v", where, next, err)
		}
		if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
			t.Fatal(err)
		}
	}
}

// Free pages, of which there may be as many as of others, do not slow a round down.
func TestRoundOverFreePages(t *testing.T) {
	d := newDriver(t, newHistory(), 1<<20)
	value := strings.Repeat("v", 8<<10)
	for i := range 2000 {
		d.do(put(fmt.Sprint("k", i), value))
	}
	d.do(&kvv1.Command{Command: &kvv1.Command_Delete{Delete: &kvv1.DeleteRequest{Key: []byte("k"), RangeEnd: []byte("l")}}})
	d.do(put("last", "v"))
	d.do(compactTo(d.h.model.revision))
	d.waitScrubbed()
	for range 3 { // What is free is pending first.
		d.do(put("last", "v"))
		if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
			t.Fatal(err)
		}
	}
	status := d.s.Status()
	read, _, err := d.s.NewRound().Step(context.Background(), 1)
	if err != nil || status.FreeBytes < 16<<20 || read > 32<<10 {
		t.Errorf("a step reads %d bytes, %d are free: %v", read, status.FreeBytes, err)
	}
}

// editable is a store with something of everything.
func editable(t *testing.T) *driver {
	d := newDriver(t, newHistory(), 1<<10)
	d.do(put("old", "value"))
	d.do(put("gone", "value"))
	d.do(put("hot", "1"))
	d.do(&kvv1.Command{Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{Id: 5, TtlSeconds: 60}}})
	d.do(&kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("leased"), Value: []byte("v"), Lease: 5}}})
	d.do(&kvv1.Command{Command: &kvv1.Command_Delete{Delete: &kvv1.DeleteRequest{Key: []byte("gone")}}})
	d.do(put("hot", "2"))
	d.do(compactTo(d.h.model.revision))
	d.waitScrubbed()
	for i := range 5 {
		d.do(put("hot", fmt.Sprint(3+i)))
		d.do(put("warm", fmt.Sprint(i)))
	}
	d.do(put("new", "value"))
	if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
		t.Fatal(err)
	}
	return d
}
