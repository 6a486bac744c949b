package store

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// TestRandom does random things to a store that is killed, and to a follower of
// the same log that is restored from its snapshots, and compares all that both
// answer with the model.
func TestRandom(t *testing.T) {
	seeds(t, 12, randomRegressions, func(t *testing.T, seed uint64) { random(t, seed, false) })
}

func random(t *testing.T, seed uint64, rights bool) {
	t.Helper()
	r := &randomRun{history: newHistory(), t: t, clones: tempDir(t)}
	rnd := newRand(seed)
	r.generator = newGenerator(rnd, r.history.model)
	r.rights = rights
	r.large = rnd.IntN(4) == 0
	tableBytes := []int{1, 2 << 10, 16 << 10, 200 << 10}
	r.master = newDriver(t, r.history, tableBytes[rnd.IntN(len(tableBytes))])
	r.follower = newDriver(t, r.history, tableBytes[rnd.IntN(len(tableBytes))])
	for range 150 + rnd.IntN(250) {
		r.step()
		if t.Failed() {
			return
		}
	}
	r.finish()
}

type randomRun struct {
	t testing.TB
	*generator
	*history
	master, follower *driver
	watchers         []*testWatcher
	clones           string // The place for new directories, there until the stores are closed.
}

func (r *randomRun) step() {
	r.t.Helper()
	switch n := r.IntN(100); {
	case n < 60:
		r.apply()
	case n < 68:
		r.read(r.master)
	case n < 72:
		r.readTxn()
	case n < 74:
		r.master.compareContents(r.kept())
	case n < 75:
		r.leasesAgree(r.master)
		r.usageAgrees(r.master)
		r.countStep()
	case n < 79:
		r.watch()
	case n < 84:
		r.drain()
	case n < 86:
		r.reopen(r.master.close)
	case n < 89:
		r.reopen(r.master.kill)
	case n < 91:
		if err := r.master.s.Flush(context.Background(), r.master.s.Applied()); err != nil {
			r.t.Fatal(err)
		}
	case n < 92:
		r.master.waitScrubbed()
	case n < 93:
		if err := r.master.s.Check(context.Background()); err != nil {
			r.t.Fatal(err)
		}
	case n < 97:
		if behind := r.last() - r.follower.s.Applied(); behind > 0 {
			r.follower.catchUp(r.last() - r.Uint64N(behind))
			r.read(r.follower)
		}
	case n < 98:
		r.restore()
	case n < 99:
		r.clone()
	default:
		r.addConfiguration([]byte{byte(r.Uint32())})
		r.master.catchUp(r.last())
	}
}

func (r *randomRun) apply() {
	r.t.Helper()
	r.add(r.entry()...)
	r.master.catchUp(r.last())
	if r.oneIn(20) {
		// What was applied before is skipped.
		if got := r.master.s.Apply(1+r.Uint64N(r.last()), 1, []*kvv1.Command{put("x", "y")}); got != nil {
			r.t.Fatalf("an old entry was applied again: %v", got)
		}
	}
}

// read asks for a range, page after page.
func (r *randomRun) read(d *driver) {
	r.t.Helper()
	req := r.rangeRequest()
	newest := d.s.Status().Revision
	for pages := 0; ; pages++ {
		got, err := d.s.Range(asPod, req)
		if want := r.readRefusal(d, req.Revision); want != 0 {
			if refusal.Reason(err) != want {
				r.t.Fatalf("range %v: %v, want %v", req, err, want)
			}
			return
		}
		if err != nil {
			r.t.Fatalf("range %v: %v", req, err)
		}
		at := req.Revision
		if at == 0 {
			at = newest
		}
		want := r.history.model.at[at].page(req)
		want.Header = &kvv1.ResponseHeader{Revision: at}
		if !proto.Equal(got, want) {
			r.t.Fatalf("range %v\ngot:  %v\nwant: %v", req, got, want)
		}
		if !got.More || pages > 50 {
			return
		}
		req = proto.Clone(req).(*kvv1.RangeRequest)
		if req.Revision = at; req.Reverse {
			req.RangeEnd = got.NextKey
		} else {
			req.Key = got.NextKey
		}
	}
}

// readTxn reads as a transaction of the log would.
func (r *randomRun) readTxn() {
	r.t.Helper()
	req := readsOf(r.txn(0))
	want := r.history.model.run(&kvv1.Command{Command: &kvv1.Command_Txn{Txn: req}})
	got, err := r.master.s.Txn(asPod, req)
	if refusal.Reason(err) != want.GetError().GetReason() || err == nil && !proto.Equal(got, want.GetTxn()) {
		r.t.Fatalf("transaction %v\ngot:  %v, %v\nwant: %v", req, got, err, want)
	}
}

// readsOf leaves the writes out of a transaction.
func readsOf(req *kvv1.TxnRequest) *kvv1.TxnRequest {
	reads := &kvv1.TxnRequest{Compare: req.GetCompare()}
	for from, to := range map[*[]*kvv1.Op]*[]*kvv1.Op{&req.Success: &reads.Success, &req.Failure: &reads.Failure} {
		for _, op := range *from {
			if nested := op.GetTxn(); nested != nil {
				op = &kvv1.Op{Op: &kvv1.Op_Txn{Txn: readsOf(nested)}}
			}
			if op.GetTxn() != nil || op.GetRange() != nil {
				*to = append(*to, op)
			}
		}
	}
	return reads
}

func (r *randomRun) readRefusal(d *driver, revision int64) kvv1.ErrorReason {
	status := d.s.Status()
	switch {
	case revision != 0 && revision < status.Compacted:
		return kvv1.ErrorReason_ERROR_REASON_COMPACTED
	case revision > status.Revision:
		return kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION
	}
	return 0
}

func (r *randomRun) leasesAgree(d *driver) {
	r.t.Helper()
	leases, _ := d.s.Leases()
	var want []*kvv1.Lease
	for _, id := range slices.Sorted(maps.Keys(r.history.model.leases)) {
		want = append(want, &kvv1.Lease{Id: id, TtlSeconds: r.history.model.leases[id]})
	}
	// The model does not number entries.
	same := func(a, b *kvv1.Lease) bool {
		return a.Id == b.Id && a.TtlSeconds == b.TtlSeconds && a.GrantedIndex != 0
	}
	if !slices.EqualFunc(leases, want, same) {
		r.t.Fatalf("leases %v, want %v", leases, want)
	}
	for id := range r.history.model.leases {
		keys, err := d.s.LeaseKeys(id, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		equal := func(got []byte, want string) bool { return string(got) == want }
		if want := r.history.model.attached(id); !slices.EqualFunc(keys, want, equal) {
			r.t.Fatalf("keys of lease %d: %q, want %q", id, keys, want)
		}
	}
}

// reopen ends the store, opens it again, and replays the log; watchers come
// back as a client would, some before the replay.
func (r *randomRun) reopen(end func()) {
	r.t.Helper()
	durable := r.master.s.Durable()
	end()
	r.master.open()
	applied := r.master.s.Applied()
	if applied < durable.Index {
		r.t.Fatalf("applied %d after the reopening, %d was durable", applied, durable.Index)
	}
	if got, want := r.master.s.Status().Revision, r.revisionAt(applied); got != want {
		r.t.Fatalf("reopened at index %d with revision %d, want %d", applied, got, want)
	}
	if revision := r.revisionAt(applied); revision >= r.history.model.compacted {
		r.master.compareContents(revision)
	}
	early := r.oneIn(2)
	if early {
		r.rewatch()
	}
	if applied < r.last() && r.oneIn(3) {
		r.master.catchUp(applied + 1 + r.Uint64N(r.last()-applied))
		r.read(r.master)
		if r.oneIn(2) { // Killed again, in the middle of the replay.
			r.master.kill()
			r.master.open()
			if early {
				r.rewatch()
			}
		}
	}
	r.master.catchUp(r.last())
	if !early {
		r.rewatch()
	}
}

// restore gives the follower a snapshot of the master while it is open.
func (r *randomRun) restore() {
	r.t.Helper()
	follower := r.follower.s
	watcher := r.watcher(follower)
	position := snapshotTo(r.t, r.master.s, func(snapshot replication.Snapshot) error {
		if snapshot.Position().Index < follower.Applied() {
			return nil
		}
		return follower.Restore(snapshot)
	})
	if follower.Applied() < position.Index {
		r.t.Fatalf("restored to index %d, applied is %d", position.Index, follower.Applied())
	}
	r.read(r.follower)
	r.follower.catchUp(r.last())
	watcher.drain(r.t, follower, r.history.model)
}

// clone gives the follower's place to a new pod.
func (r *randomRun) clone() {
	r.t.Helper()
	r.follower.close()
	if r.oneIn(2) {
		dir, err := os.MkdirTemp(r.clones, "")
		if err != nil {
			r.t.Fatal(err)
		}
		r.follower.options.Dir = dir
	}
	snapshotTo(r.t, r.master.s, func(snapshot replication.Snapshot) error {
		position, err := Receive(r.follower.options.Dir, snapshot)
		if err == nil && position.Index != snapshot.Position().Index {
			r.t.Fatalf("received position %v, the snapshot has %v", position, snapshot.Position())
		}
		return err
	})
	r.follower.open()
}

func (r *randomRun) finish() {
	r.t.Helper()
	r.drain()
	r.follower.catchUp(r.last())
	for _, d := range []*driver{r.master, r.follower} {
		for range 5 {
			r.read(d)
			d.compareContents(r.kept())
		}
		r.leasesAgree(d)
		r.usageAgrees(d)
		d.waitScrubbed()
		d.compareContents(r.kept())
	}
	for range 5 {
		revision := r.kept()
		_, a, err := r.master.s.Hash(revision)
		_, b, err2 := r.follower.s.Hash(revision)
		if a != b || err != nil || err2 != nil {
			r.t.Fatalf("hashes of revision %d: %x and %x (%v, %v)", revision, a, b, err, err2)
		}
	}
}

// testWatcher is a client that watches, and comes back after a restart.
type testWatcher struct {
	w    *Watcher
	req  *kvv1.WatchRequest
	seen int64 // Every event up to here was seen.
}

// watcher starts a random one; nil when the revision is not kept.
func (r *randomRun) watcher(s *Store) *testWatcher {
	r.t.Helper()
	req := &kvv1.WatchRequest{Key: r.key(), PrevKv: r.oneIn(2)}
	req.RangeEnd = r.rangeEnd(req.Key)
	if r.oneIn(3) {
		req.Key, req.RangeEnd = []byte{0}, []byte{0}
	}
	if r.oneIn(2) {
		req.StartRevision = r.revision()
	}
	if r.oneIn(4) {
		req.Exclude = []kvv1.Event_Type{kvv1.Event_Type(1 + r.IntN(2))}
	}
	w, err := s.Watch(req)
	if err == nil {
		w.For(caller.From(asPod))
	}
	if err != nil {
		if refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_COMPACTED || req.StartRevision >= s.Status().Compacted {
			r.t.Fatalf("watch %v: %v", req, err)
		}
		return &testWatcher{}
	}
	want := s.Status().Revision
	if req.StartRevision != 0 {
		want = req.StartRevision - 1
	}
	if w.Start() != want {
		r.t.Fatalf("watch %v starts after %d, want %d", req, w.Start(), want)
	}
	return &testWatcher{w: w, req: req, seen: w.Start()}
}

func (r *randomRun) watch() {
	r.t.Helper()
	if len(r.watchers) > 10 {
		if at := r.IntN(len(r.watchers)); r.watchers[at].w != nil {
			r.watchers[at].w.Close()
			r.watchers = slices.Delete(r.watchers, at, at+1)
		}
	}
	if w := r.watcher(r.master.s); w.w != nil {
		r.watchers = append(r.watchers, w)
	}
}

func (r *randomRun) drain() {
	r.t.Helper()
	for _, w := range r.watchers {
		w.drain(r.t, r.master.s, r.history.model)
	}
	r.watchers = slices.DeleteFunc(r.watchers, func(w *testWatcher) bool { return w.w == nil })
}

// rewatch is what clients do after their stream broke.
func (r *randomRun) rewatch() {
	r.t.Helper()
	r.watchers = slices.DeleteFunc(r.watchers, func(w *testWatcher) bool { return !w.again(r.t, r.master.s) })
}

func (w *testWatcher) again(t testing.TB, s *Store) bool {
	t.Helper()
	if w.w == nil {
		return false
	}
	if _, err := w.w.Next(context.Background()); !errors.Is(err, ErrClosed) {
		t.Fatalf("a watcher of a closed store: %v", err)
	}
	w.w.Close()
	w.req.StartRevision = w.seen + 1
	watcher, err := s.Watch(w.req)
	if err == nil {
		watcher.For(caller.From(asPod))
	}
	if refusal.Reason(err) == kvv1.ErrorReason_ERROR_REASON_COMPACTED && w.seen+1 < s.Status().Compacted {
		return false
	}
	if err != nil {
		t.Fatalf("watch again from %d: %v", w.seen+1, err)
	}
	w.w = watcher
	return true
}

var cancelled = func() context.Context {
	ctx, cancel := context.WithCancel(asPod)
	cancel()
	return ctx
}()

// drain takes all events that are there and compares them with the model's.
func (w *testWatcher) drain(t testing.TB, s *Store, m *model) {
	t.Helper()
	if w.w == nil {
		return
	}
	var got []*kvv1.Event
	for {
		resp, err := w.w.Next(cancelled)
		if refusal.Reason(err) == kvv1.ErrorReason_ERROR_REASON_COMPACTED {
			if w.seen+1 >= m.compacted {
				t.Fatalf("watch %v has seen %d, is told %v", w.req, w.seen, err)
			}
			if _, again := w.w.Next(cancelled); refusal.Reason(again) != kvv1.ErrorReason_ERROR_REASON_COMPACTED {
				t.Fatalf("watch goes on after %v: %v", err, again)
			}
			w.w.Close()
			w.w = nil
			return
		}
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			t.Fatalf("watch %v: %v", w.req, err)
		}
		if last := resp.Events[len(resp.Events)-1]; len(resp.Events) == 0 || resp.Header.Revision != last.Kv.ModRevision {
			t.Fatalf("watch %v: %v", w.req, resp)
		}
		got = append(got, resp.Events...)
	}
	newest := s.Status().Revision
	if want := max(w.w.Start(), newest); w.w.Progress() != want {
		t.Fatalf("progress %d, want %d", w.w.Progress(), want)
	}
	want := m.watched(w.req, w.seen+1, newest)
	if !slices.EqualFunc(got, want, func(a, b *kvv1.Event) bool { return proto.Equal(a, b) }) {
		t.Fatalf("watch %v from %d to %d (compacted %d)\ngot:  %v\nwant: %v", w.req, w.seen+1, newest, m.compacted, got, want)
	}
	w.seen = max(w.seen, newest)
}

// watched gives the events that a watcher should see.
func (m *model) watched(req *kvv1.WatchRequest, from, upTo int64) (events []*kvv1.Event) {
	for revision := max(from, firstRevision); revision <= upTo; revision++ {
		for _, event := range m.events[revision] {
			if !inRange(string(event.Kv.Key), req.Key, req.RangeEnd) || slices.Contains(req.Exclude, event.Type) {
				continue
			}
			event = proto.Clone(event).(*kvv1.Event)
			if !req.PrevKv || revision-1 < m.compacted {
				event.PrevKv = nil
			}
			events = append(events, event)
		}
	}
	return events
}

// randomRegressions are seeds that found a bug once.
var randomRegressions = []uint64{
	156769966842, // A version that a killed flush had left on disk was taken for the previous one.
	156769966847, // A revocation that deleted no key was not remembered.
	156769966851, // A watcher went on after it was told COMPACTED.
}
