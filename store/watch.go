package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// watchMessageBytes bounds one answer of Next, so that it is a small message.
	watchMessageBytes = 1 << 20
	// watchMessageEvents likewise, for small events.
	watchMessageEvents = 4096
	// watchLook is after how many changes a look ends with the revision at hand: a
	// watcher that is far behind, and finds nothing, must hear its context, tell how
	// far it is, and let others in.
	watchLook = 16384
)

// A Watcher is a cursor over revisions: it holds no events, but reads them when
// it is asked, so a slow reader costs nothing. For one goroutine.
type Watcher struct {
	store   *Store
	request *kvv1.WatchRequest
	span    span
	exclude map[kvv1.Event_Type]bool
	start   int64

	// Who watches, and what that caller may do as of the last look; see mayRead.
	caller  caller.Caller
	allowed *access.State

	// skip is how many changes of the revision pending were returned already.
	skip int

	// Under watches.mu:
	pending int64 // The first revision that may have events to return; 0: none.
	reading int64 // What pending was when the last Poll began.
	wake    chan struct{}
	ready   func() chan<- struct{} // Says what to wake instead; see OnReady.
	err     error
}

// watches knows who watches what.
type watches struct {
	mu       sync.Mutex
	notified int64 // Every watcher has been told of the revisions up to here.
	all      map[*Watcher]struct{}
	closed   error
	woken    []chan<- struct{} // By unlock.

	index *spanIndex // Rebuilt when all has changed; nil: outdated.
	last  sharedBatch
}

// sharedBatch is what Poll has returned last. Many watchers of one key, which
// wake together, read the changes once.
type sharedBatch struct {
	from, upTo int64
	request    *kvv1.WatchRequest
	resp       *kvv1.WatchResponse
}

// fits says whether the batch is what a watcher would read; the hub's mu is
// held.
func (b *sharedBatch) fits(w *Watcher, from, upTo int64) bool {
	if b.resp == nil || b.from != from || b.upTo != upTo || w.skip != 0 {
		return false
	}
	have, want := b.request, w.request
	return bytes.Equal(have.GetKey(), want.GetKey()) && bytes.Equal(have.GetRangeEnd(), want.GetRangeEnd()) &&
		have.GetPrevKv() == want.GetPrevKv() && slices.Equal(have.GetExclude(), want.GetExclude())
}

func newWatches() *watches { return &watches{all: map[*Watcher]struct{}{}} }

// unlock wakes the readers of the watchers that were poked: not before, since they would
// wait for mu, and one of many watchers would find some of them only.
func (w *watches) unlock() {
	woken := w.woken
	w.woken = nil
	w.mu.Unlock()
	for _, wake := range woken {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

func (w *watches) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all)
}

// Watch returns a watcher of the request's keys, from its start revision on. It
// fails with COMPACTED when that is not kept; a start in the future is fine.
func (s *Store) Watch(req *kvv1.WatchRequest) (*Watcher, error) {
	watcher := &Watcher{
		store:   s,
		request: req,
		span:    newSpan(req.Key, req.RangeEnd),
		exclude: map[kvv1.Event_Type]bool{},
		wake:    make(chan struct{}, 1),
	}
	for _, t := range req.Exclude {
		watcher.exclude[t] = true
	}
	w := s.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed != nil {
		return nil, w.closed
	}
	if oldest := s.visible.compacted.Load(); req.StartRevision != 0 && req.StartRevision < oldest {
		return nil, errCompacted(req.StartRevision, oldest)
	}
	// Not below what reads may have seen already.
	watcher.start = max(w.notified, s.visible.revision.Load())
	if req.StartRevision != 0 {
		watcher.start = req.StartRevision - 1
	}
	if watcher.start < w.notified {
		watcher.pending = watcher.start + 1
	}
	w.all[watcher] = struct{}{}
	w.index = nil
	return watcher, nil
}

// notify wakes the watchers of the keys that log has changed.
func (w *watches) notify(revision int64, log []logEntry) {
	w.mu.Lock()
	defer w.unlock()
	w.notified = revision
	if len(w.all) == 0 {
		return
	}
	if w.index == nil {
		w.index = newSpanIndex(w.all)
	}
	for i := range log {
		for _, c := range log[i].changes {
			w.index.each(recordKey(c.record), func(watcher *Watcher) {
				if watcher.start < log[i].revision {
					watcher.tell(log[i].revision)
				}
			})
		}
	}
}

// reread makes every watcher read again from where it is: the store's content
// was replaced by a newer one.
func (w *watches) reread(revision int64) {
	w.mu.Lock()
	defer w.unlock()
	from := w.notified + 1
	w.notified, w.last = revision, sharedBatch{}
	for watcher := range w.all {
		// One that starts later is told by notify.
		if watcher.start < revision {
			watcher.tell(max(from, watcher.start+1))
		}
	}
}

// close ends every watcher with an error.
func (w *watches) close(err error) {
	w.mu.Lock()
	defer w.unlock()
	w.closed = err
	for watcher := range w.all {
		watcher.err = err
		watcher.poke()
	}
}

func (w *Watcher) tell(revision int64) {
	if w.pending == 0 {
		w.pending = revision
		w.poke()
	}
}

// poke tells that there is something to do; the hub's mu is held.
func (w *Watcher) poke() {
	var wake chan<- struct{} = w.wake
	if w.ready != nil {
		wake = w.ready()
	}
	if wake != nil {
		w.store.watches.woken = append(w.store.watches.woken, wake)
	}
}

// Start is the revision that the watcher starts after.
func (w *Watcher) Start() int64 { return w.start }

// Progress is the revision up to which Next has returned every event.
func (w *Watcher) Progress() int64 {
	hub := w.store.watches
	hub.mu.Lock()
	defer hub.mu.Unlock()
	if w.pending != 0 {
		return w.pending - 1
	}
	return max(hub.notified, w.start)
}

// OnReady helps a caller of Poll that has many watchers: ready is called whenever
// Poll may have something to return, and at once if it has now. It runs while the
// store applies, so it must neither block nor call the store. What it returns, unless it
// is nil, is sent to without waiting once all watchers have been called.
func (w *Watcher) OnReady(ready func() chan<- struct{}) {
	hub := w.store.watches
	hub.mu.Lock()
	defer hub.unlock()
	w.ready = ready
	if w.pending != 0 || w.err != nil {
		w.poke()
	}
}

// Close ends the watcher.
func (w *Watcher) Close() {
	hub := w.store.watches
	hub.mu.Lock()
	defer hub.mu.Unlock()
	delete(hub.all, w)
	hub.index = nil
}

// Next returns the next events, in order, each once. It waits for one. It fails
// with COMPACTED when the watcher has fallen behind what is kept, when its caller may
// no longer read its keys, with
// ErrClosed, or with the context's error; what it had looked at without finding
// anything by then is not looked at again.
func (w *Watcher) Next(ctx context.Context) (*kvv1.WatchResponse, error) {
	for {
		response, more, err := w.Poll(ctx)
		if response != nil || err != nil {
			return response, err
		}
		if more && ctx.Err() == nil {
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// recheck wakes every watcher, because rights have changed.
func (w *watches) recheck() {
	w.mu.Lock()
	defer w.unlock()
	for watcher := range w.all {
		watcher.poke()
	}
}

// Poll is Next without waiting: it returns nil when there is no event. After
// more, with an answer or without, it must be called again, without waiting for
// OnReady. An answer, of Next as well, may be another watcher's, too: it must not
// be changed.
func (w *Watcher) Poll(ctx context.Context) (response *kvv1.WatchResponse, more bool, err error) {
	if response, more, err = w.poll(ctx); err == nil {
		if err = w.mayRead(); err != nil {
			w.withhold(err)
		}
	}
	if err != nil {
		return nil, false, err
	}
	return response, more, nil
}

func (w *Watcher) poll(ctx context.Context) (response *kvv1.WatchResponse, more bool, err error) {
	from, upTo, shared, err := w.due()
	if from == 0 || shared != nil || err != nil {
		return shared, false, err
	}
	batch := &watchBatch{watcher: w, resp: &kvv1.WatchResponse{}, skip: w.skip}
	if err := w.store.events(ctx, from, upTo, batch.add); err != nil && !errors.Is(err, errFull) {
		return nil, false, w.fail(ctx, from, err)
	}
	more = w.settle(batch, from, upTo)
	if len(batch.resp.Events) == 0 {
		return nil, more, nil
	}
	return batch.resp, more, nil
}

// due says where there may be events, or has them; from is 0 when there are none.
func (w *Watcher) due() (from, upTo int64, shared *kvv1.WatchResponse, err error) {
	hub := w.store.watches
	hub.mu.Lock()
	defer hub.mu.Unlock()
	w.reading = w.pending
	if w.err != nil || w.pending == 0 || w.pending > hub.notified {
		return 0, 0, nil, w.err
	}
	from, upTo = w.pending, hub.notified
	w.pending = 0 // From here on notify tells of what comes after upTo.
	if hub.last.fits(w, from, upTo) {
		shared = hub.last.resp
	}
	return from, upTo, shared, nil
}

// fail makes an error final: after it there would be a gap. A read that the
// caller has ended is done again by the next call.
func (w *Watcher) fail(ctx context.Context, from int64, err error) error {
	hub := w.store.watches
	hub.mu.Lock()
	defer hub.mu.Unlock()
	if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
		w.pending = from
		return err
	}
	w.err = err
	return err
}

// settle notes where the next batch begins, and keeps a whole one for others. It
// says whether there is more to look at.
func (w *Watcher) settle(batch *watchBatch, from, upTo int64) (more bool) {
	skipped := w.skip != 0
	w.skip = 0
	hub := w.store.watches
	hub.mu.Lock()
	defer hub.mu.Unlock()
	switch {
	case batch.full:
		w.pending, w.skip = batch.revision, batch.taken
		batch.resp.Partial = batch.resp.Header.GetRevision() == batch.revision
	case !skipped && len(batch.resp.Events) > 0:
		hub.last = sharedBatch{from: from, upTo: upTo, request: w.request, resp: batch.resp}
	}
	return w.pending != 0 && w.pending <= hub.notified
}

// errFull ends a batch.
var errFull = errors.New("the batch is full")

// watchBatch gathers the events of one answer.
type watchBatch struct {
	watcher  *Watcher
	resp     *kvv1.WatchResponse
	size     int
	skip     int   // Changes of the first revision to leave out.
	revision int64 // The revision at hand,
	taken    int   // how many of its changes were looked at,
	full     bool  // and whether it was left in the middle.
	looked   int   // At so many changes in all.
}

func (b *watchBatch) add(v *view, key []byte, ver *version) error {
	revision := ver.place.revision
	if revision != b.revision {
		if b.revision != 0 {
			b.skip = 0
		}
		b.revision, b.taken = revision, 0
		if b.looked >= watchLook {
			b.full = true
			return errFull
		}
	}
	b.looked++
	// A batch is not left in the middle of a revision unless more of it follows.
	full := b.size >= watchMessageBytes || len(b.resp.Events) >= watchMessageEvents
	if full && b.resp.Header.GetRevision() != revision {
		b.full = true
		return errFull
	}
	b.taken++
	if b.taken <= b.skip || !b.watcher.span.contains(key) {
		return nil
	}
	event, err := b.event(v, key, ver)
	if err != nil || event == nil {
		return err
	}
	if full {
		b.taken--
		b.full = true
		return errFull
	}
	b.resp.Header = &kvv1.ResponseHeader{Revision: revision}
	b.resp.Events = append(b.resp.Events, event)
	b.size += len(event.Kv.Key) + len(event.Kv.Value) + len(event.PrevKv.GetValue()) + entryOverhead
	return nil
}

func (b *watchBatch) event(v *view, key []byte, ver *version) (*kvv1.Event, error) {
	event := &kvv1.Event{Type: kvv1.Event_TYPE_PUT}
	if ver.exists() {
		event.Kv = ver.keyValue(key, false)
	} else {
		event.Type = kvv1.Event_TYPE_DELETE
		event.Kv = &kvv1.KeyValue{Key: append([]byte(nil), key...), ModRevision: ver.place.revision}
	}
	switch {
	case b.watcher.exclude[event.Type]:
		return nil, nil
	case !b.watcher.request.PrevKv || ver.prev.revision == 0 || ver.prevDeleted:
		return event, nil
	case ver.place.revision <= v.store.visible.compacted.Load():
		// A compaction to this very revision leaves the one before undefined.
		return event, nil
	}
	prev, err := v.logged(key, ver.prev)
	if err != nil {
		return nil, err
	}
	event.PrevKv = prev.keyValue(key, false)
	return event, nil
}
