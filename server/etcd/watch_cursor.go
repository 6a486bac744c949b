package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
)

const (
	// fragmentBytes is where etcd splits a response for a client that asked for
	// it: its limit on requests.
	fragmentBytes = 2 << 20
	// wholeBytes is where others get fragments all the same: all the events of a
	// revision are in memory until they are sent, and deleting a range can be a
	// million.
	wholeBytes = 64 << 20
	// eventOverhead is more than what an event has beside keys and values.
	eventOverhead = 64
)

// watch is one watch of a stream.
type watch struct {
	*watchStream
	id      int64
	changes *kvv1.WatchRequest
	cursor  server.Watcher
	limit   int  // Of a response in bytes.
	notify  bool // It wants to know of progress.
	stop    context.CancelFunc

	quiet bool // Nothing was sent since the last tick; under the stream's mu.
}

func newWatch(s *watchStream, req *pb.WatchCreateRequest) *watch {
	w := &watch{watchStream: s, notify: req.GetProgressNotify(), limit: wholeBytes}
	if req.GetFragment() {
		w.limit = fragmentBytes
	}
	w.changes = &kvv1.WatchRequest{
		Key: req.GetKey(), RangeEnd: req.GetRangeEnd(), StartRevision: req.GetStartRevision(), PrevKv: req.GetPrevKv(),
	}
	if len(w.changes.Key) == 0 {
		w.changes.Key = []byte{0}
	}
	for _, filter := range req.GetFilters() {
		switch filter {
		case pb.WatchCreateRequest_NOPUT:
			w.changes.Exclude = append(w.changes.Exclude, kvv1.Event_TYPE_PUT)
		case pb.WatchCreateRequest_NODELETE:
			w.changes.Exclude = append(w.changes.Exclude, kvv1.Event_TYPE_DELETE)
		}
	}
	return w
}

func (w *watch) close() {
	if w.cursor != nil {
		w.cursor.Close()
	}
}

// run sends events until the watch or its stream ends.
func (w *watch) run(ctx context.Context) {
	defer w.close()
	defer w.stop()
	for {
		changes, err := w.cursor.Next(ctx)
		if err == nil {
			_, err = w.Read(ctx, local) // What diverged must not be served.
		}
		if err == nil {
			err = w.send(ctx, changes)
		}
		if err != nil {
			w.lose(ctx, err)
			return
		}
	}
}

// lose ends the watch when what it needs next is gone, and with every other
// error the stream.
func (w *watch) lose(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if _, reason := w.Describe(err); reason != kvv1.ErrorReason_ERROR_REASON_COMPACTED {
		w.end(err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watches[w.id] != w {
		return // The client was told that it has ended.
	}
	delete(w.watches, w.id)
	if err := w.compacted(ctx, w); err != nil {
		w.end(err)
	}
}

// send sends changes and, if they end within a revision, the rest of it: the
// events of one revision come in one response, or in fragments with nothing
// between them, because clients put them together again.
func (w *watch) send(ctx context.Context, changes *kvv1.WatchResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watches[w.id] != w {
		return context.Canceled
	}
	w.quiet = false
	response, size := w.response(changes), 0
	for {
		for _, change := range changes.GetEvents() {
			bytes := eventBytes(change)
			if size += bytes; size >= w.limit && len(response.Events) > 0 {
				response.Fragment = true
				if err := w.both.Send(response); err != nil {
					return err
				}
				response, size = w.response(changes), bytes
			}
			response.Events = append(response.Events, event(change))
		}
		if !changes.GetPartial() {
			return w.both.Send(response)
		}
		var err error
		if changes, err = w.cursor.Next(ctx); err != nil {
			return err
		}
		response.Header.Revision = changes.GetHeader().GetRevision()
	}
}

func (w *watch) response(changes *kvv1.WatchResponse) *pb.WatchResponse {
	return &pb.WatchResponse{
		Header: w.header(changes.GetHeader().GetRevision()), WatchId: w.id,
		Events: make([]*mvccpb.Event, 0, len(changes.GetEvents())),
	}
}

func event(change *kvv1.Event) *mvccpb.Event {
	e := &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: keyValue(change.GetKv()), PrevKv: keyValue(change.GetPrevKv())}
	if change.GetType() == kvv1.Event_TYPE_DELETE {
		e.Type = mvccpb.Event_DELETE
	}
	return e
}

func eventBytes(change *kvv1.Event) int {
	kv, prev := change.GetKv(), change.GetPrevKv()
	return len(kv.GetKey()) + len(kv.GetValue()) + len(prev.GetKey()) + len(prev.GetValue()) + eventOverhead
}
