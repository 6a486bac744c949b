package store

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store/internal/faultfs"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the random tests (0: a new one, which is printed)")
	roundsFlag = flag.Int("rounds", 0, "rounds of each random test (0: as many as an ordinary test run has time for)")
)

func TestMain(m *testing.M) {
	faultfs.Main()
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		flushStepBytes, indexStepKeys, requestStep = 2<<10, 32, 32
		scrubStepChanges, countStepKeys, countStepBytes = 16, 3, 100
		partBytes, partVersions, partSteps = 4<<10, 8, 32
		pageBytes = 4 << 10
		requestBlock, requestBlocks = 16, 4
		mapBytes = 1 << 28 // What bbolt panics over stays mapped.
	}
	os.Exit(m.Run())
}

// seeds runs a test for several seeds: regressions first, then new ones. It
// prints the command that repeats a failure.
func seeds(t *testing.T, rounds int, regressions []uint64, test func(t *testing.T, seed uint64)) {
	t.Helper()
	if *roundsFlag > 0 {
		rounds = *roundsFlag
	}
	first := *seedFlag
	if first == 0 {
		first = rand.Uint64N(1 << 40)
		for _, seed := range regressions {
			runSeed(t, seed, test)
		}
	}
	for seed := first; seed < first+uint64(rounds); seed++ {
		runSeed(t, seed, test)
	}
}

func runSeed(t *testing.T, seed uint64, test func(t *testing.T, seed uint64)) {
	t.Helper()
	name := t.Name()
	t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
		defer func() {
			if t.Failed() {
				t.Logf("repeat with: go test ./store -run '^%s$' -seed %d -rounds 1", name, seed)
			}
		}()
		test(t, seed)
	})
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// entry is one of the log.
type entry struct {
	commands      []*kvv1.Command
	results       []*kvv1.Result // What the model answers.
	configuration []byte         // An entry is either commands or a configuration.
	revision      int64          // After it.
}

// history is a log as Raft would keep it, and what its entries lead to. Entry i
// has index i+1.
type history struct {
	model   *model
	entries []entry
}

func newHistory() *history { return &history{model: newModel()} }

func (h *history) add(commands ...*kvv1.Command) {
	e := entry{commands: commands}
	for _, c := range commands {
		// A clone: the model keeps parts of what it is given.
		e.results = append(e.results, proto.Clone(h.model.apply(proto.Clone(c).(*kvv1.Command))).(*kvv1.Result))
	}
	e.revision = h.model.revision
	h.entries = append(h.entries, e)
}

func (h *history) addConfiguration(configuration []byte) {
	h.entries = append(h.entries, entry{configuration: configuration, revision: h.model.revision})
}

func (h *history) last() uint64 { return uint64(len(h.entries)) }

// revisionAt is the revision after the entry of an index.
func (h *history) revisionAt(index uint64) int64 {
	if index == 0 {
		return firstRevision
	}
	return h.entries[index-1].revision
}

// driver feeds a store from a history, and compares all it answers.
type driver struct {
	t       testing.TB
	options Options
	h       *history
	s       *Store
}

func newDriver(t testing.TB, h *history, tableBytes int) *driver {
	t.Helper()
	d := &driver{t: t, h: h, options: Options{Dir: tempDir(t), TableBytes: tableBytes}}
	d.open()
	t.Cleanup(d.close)
	return d
}

func (d *driver) open() {
	d.t.Helper()
	s, err := Open(d.options)
	if err != nil {
		d.t.Fatalf("open: %v", err)
	}
	d.s = s
}

// close checks the file's invariants first.
func (d *driver) close() {
	d.t.Helper()
	if d.s == nil {
		return
	}
	closeChecked(d.t, d.s)
	d.s = nil
}

func closeChecked(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Check(context.Background()); err != nil {
		t.Errorf("check: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	select {
	case err := <-s.Failed():
		t.Errorf("the store has failed: %v", err)
	default:
	}
}

// kill drops the store as a killed process does: what was not written is lost,
// and a flush may stop between two steps.
func (d *driver) kill() {
	d.t.Helper()
	s := d.s
	d.s = nil
	s.flusher.stop()
	s.watches.close(ErrClosed)
	s.database.swap.Lock()
	s.streams.close()
	s.database.closed = true
	err := s.database.db.Close()
	s.database.swap.Unlock()
	if err != nil {
		d.t.Fatalf("kill: %v", err)
	}
}

// catchUp applies the log from where the store is up to an index.
func (d *driver) catchUp(upTo uint64) {
	d.t.Helper()
	for index := d.s.Applied() + 1; index <= upTo; index++ {
		d.applyEntry(index)
	}
}

func (d *driver) applyEntry(index uint64) {
	d.t.Helper()
	e := d.h.entries[index-1]
	if e.configuration != nil {
		d.s.ApplyConfiguration(index, 1, e.configuration)
	} else {
		for i, got := range d.s.Apply(index, 1, e.commands) {
			if diff := differ(got, e.results[i]); diff != "" {
				select {
				case err := <-d.s.Failed():
					d.t.Fatalf("entry %d: the store has failed: %v", index, err)
				default:
					d.t.Fatalf("entry %d, command %d: %v\n%s", index, i, e.commands[i], diff)
				}
			}
		}
	}
	if d.s.Applied() != index || d.s.Status().Revision != e.revision {
		d.t.Fatalf("entry %d: applied %d, revision %d, want revision %d", index, d.s.Applied(), d.s.Status().Revision, e.revision)
	}
}

// do adds commands to the log as one entry and applies all that is not applied.
func (d *driver) do(commands ...*kvv1.Command) []*kvv1.Result {
	d.t.Helper()
	d.h.add(commands...)
	d.catchUp(d.h.last())
	return d.h.entries[d.h.last()-1].results
}

// differ compares a result with the model's, in which refusals have no words.
func differ(got, want *kvv1.Result) string {
	got = proto.Clone(got).(*kvv1.Result)
	bare := func(e *kvv1.Error) { e.Message, e.Metadata = "", nil }
	if e := got.GetError(); e != nil {
		bare(e)
	}
	for _, write := range got.GetBatch().GetResults() {
		if e := write.GetError(); e != nil {
			bare(e)
		}
	}
	if proto.Equal(got, want) {
		return ""
	}
	return fmt.Sprintf("got:  %v\nwant: %v", got, want)
}

// compareContents reads everything at a revision.
func (d *driver) compareContents(revision int64) {
	d.t.Helper()
	if err := contentsDiffer(d.s, d.h.model, revision); err != nil {
		d.t.Fatal(err)
	}
}

func contentsDiffer(s *Store, m *model, revision int64) error {
	var got []*kvv1.KeyValue
	everything := &kvv1.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision}
	err := s.Scan(asPod, everything, func(at int64, kvs []*kvv1.KeyValue) error {
		if at != revision {
			return fmt.Errorf("a scan of revision %d is at revision %d", revision, at)
		}
		got = append(got, kvs...)
		return nil
	})
	if err != nil {
		return fmt.Errorf("scan at revision %d: %w", revision, err)
	}
	content := m.at[revision]
	want := content.keys([]byte{0}, []byte{0})
	for i, key := range want {
		if i == len(got) || !proto.Equal(got[i], content[key]) {
			return fmt.Errorf("revision %d, key %q: got %v, want %v (%d and %d keys)", revision, key, got[min(i, len(got)):min(i+1, len(got))], content[key], len(got), len(want))
		}
	}
	if len(got) > len(want) {
		return fmt.Errorf("revision %d: unexpected %v", revision, got[len(want)])
	}
	return sizesDiffer(s, everything, got)
}

// sizesDiffer scans anew for sizes, from the second part on.
func sizesDiffer(s *Store, req *kvv1.RangeRequest, want []*kvv1.KeyValue) error {
	parts, i := 0, 0
	return s.ScanSizes(asPod, req, func() bool { parts++; return parts > 1 || len(want) < 10 }, func(_ int64, kvs []*kvv1.KeyValue) error {
		for _, kv := range kvs {
			expected := proto.CloneOf(want[i])
			if parts > 1 || len(want) < 10 {
				expected.Value = make([]byte, len(expected.GetValue()))
			}
			if !proto.Equal(kv, expected) {
				return fmt.Errorf("revision %d: sized as %v, want %v", req.GetRevision(), kv, expected)
			}
			i++
		}
		return nil
	})
}

// waitScrubbed returns when what the newest compaction made unreadable is gone.
func (d *driver) waitScrubbed() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := d.s.Flush(ctx, d.s.Applied()); err != nil {
		d.t.Fatal(err)
	}
	if err := d.s.WaitScrubbed(ctx, d.s.visible.compacted.Load()); err != nil {
		d.t.Fatal(err)
	}
}

// tempDir is in memory where there is such a place: the tests sync all the time.
func tempDir(t testing.TB) string {
	t.Helper()
	const memory = "/dev/shm"
	if _, err := os.Stat(memory); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "baton-store-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func snapshotTo(t testing.TB, s *Store, receive func(replication.Snapshot) error) replication.Position {
	t.Helper()
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	err = receive(snapshot)
	if err := errors.Join(err, snapshot.Close()); err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return snapshot.Position()
}

func databaseOf(dir string) string { return filepath.Join(dir, FileName) }

func put(key, value string) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func compactTo(revision int64) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Compact{Compact: &kvv1.CompactRequest{Revision: revision}}}
}

const outcomeUnknown = kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN
