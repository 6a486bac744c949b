package etcd

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
)

const (
	// fragmentBytes is the size at which etcd splits a response for a client that has
	// asked for that: its limit on requests.
	fragmentBytes = 2 << 20
	// wholeBytes is the size at which other clients get fragments all the same: the
	// events of a revision are in memory until they are sent, and deleting a range can
	// make a million of them.
	wholeBytes = 64 << 20
	// keptBytes bounds the events that are kept for the pod's other watches.
	keptBytes = 64 << 10
	// eventOverhead is more than an event takes besides its keys and values.
	eventOverhead = 64
)

// watch is one watch of a stream.
type watch struct {
	id      int64
	changes *kvv1.WatchRequest
	cursor  *server.Watcher
	limit   int  // Of a response in bytes.
	notify  bool // It wants to know of progress.
	quiet   bool // Nothing was sent since the last tick.
	queued  bool // It is among the ready; under their mu.
}

// translated is the store's last answer as it is sent: watches of the same keys,
// on all streams, get the very same one.
type translated struct {
	changes *kvv1.WatchResponse
	body    []byte // All of the response but the watch's id.
}

// to builds the response to one watch. The body goes out unchanged, as what protobuf
// calls unknown fields: their order is free.
func (t *translated) to(w *watch) *pb.WatchResponse {
	response := &pb.WatchResponse{WatchId: w.id}
	response.ProtoReflect().SetUnknown(t.body)
	return response
}

// readyWatches are those that may have something to send. The store adds to
// them, from any goroutine.
type readyWatches struct {
	wake chan struct{}

	mu  sync.Mutex // guards all
	all []*watch
}

// add returns what to wake the stream by, if it may sleep.
func (r *readyWatches) add(w *watch) chan<- struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.queued {
		return nil
	}
	w.queued = true
	r.all = append(r.all, w)
	if len(r.all) > 1 {
		return nil
	}
	return r.wake
}

// addAgain is add for the stream itself.
func (r *readyWatches) addAgain(w *watch) {
	select {
	case r.add(w) <- struct{}{}:
	default: // It is awake, or will be.
	}
}

func (r *readyWatches) take() []*watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.wake: // For what is taken now.
	default:
	}
	all := r.all
	r.all = nil
	for _, w := range all {
		w.queued = false
	}
	return all
}

func newWatch(req *pb.WatchCreateRequest) *watch {
	w := &watch{notify: req.GetProgressNotify(), quiet: true, limit: wholeBytes}
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

// deliver sends what every ready watch has, about a MiB each; a watch with more comes
// again after the others.
func (s *watchStream) deliver(ctx context.Context) error {
	if ctx.Err() != nil { // Its caller's token has ended, perhaps.
		return context.Cause(ctx)
	}
	if _, err := s.pod.Read(ctx, local); err != nil { // What diverged must not be served.
		return err
	}
	for _, w := range s.ready.take() {
		if s.watches[w.id] != w {
			continue // It has ended meanwhile.
		}
		changes, more, err := w.cursor.Poll(ctx)
		if err == nil && changes != nil {
			more, err = s.send(ctx, w, changes, more)
		}
		switch {
		case err != nil:
			if err := s.lose(ctx, w, err); err != nil {
				return err
			}
		case more:
			s.ready.addAgain(w)
		}
	}
	return nil
}

// errTokenEnded ends a stream whose client is to log in again and go on where it was: the
// code tells it so. Of a watch that is canceled it would only close the channel.
var errTokenEnded = ours(codes.Unavailable, "the token of this stream has ended: log in again")

// lose ends a watch that compaction has overtaken, or whose caller may no longer read
// its keys. Any other error ends the stream.
func (s *watchStream) lose(ctx context.Context, w *watch, err error) error {
	if reason := refusal.Reason(err); reason == kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED {
		s.drop(w)
		return s.both.Send(&pb.WatchResponse{
			Header: s.pod.header(w.cursor.Progress()), WatchId: w.id, Canceled: true, CancelReason: errorOf[reason].Error(),
		})
	}
	if !compacted(err) {
		return err
	}
	s.drop(w)
	return s.compacted(ctx, w)
}

// send sends changes and, if they end within a revision, the rest of it.
func (s *watchStream) send(ctx context.Context, w *watch, changes *kvv1.WatchResponse, more bool) (bool, error) {
	w.quiet = false
	if last := s.last.Load(); last != nil && last.changes == changes {
		return more, s.both.Send(last.to(w))
	}
	if changes.GetPartial() || eventsBytes(changes) > keptBytes {
		return s.sendParts(ctx, w, changes, more)
	}
	last, err := s.translate(changes)
	if err != nil {
		return false, err
	}
	s.last.Store(last)
	return more, s.both.Send(last.to(w))
}

func (s *watchStream) translate(changes *kvv1.WatchResponse) (*translated, error) {
	response := &pb.WatchResponse{Header: s.pod.header(changes.GetHeader().GetRevision())}
	for _, change := range changes.GetEvents() {
		response.Events = append(response.Events, event(change))
	}
	body, err := proto.Marshal(response)
	return &translated{changes, body}, err
}

// sendParts sends the events of one revision in one response, or in fragments
// with nothing between them, because clients put them together again.
func (s *watchStream) sendParts(ctx context.Context, w *watch, changes *kvv1.WatchResponse, more bool) (bool, error) {
	response, size := s.response(w, changes), 0
	for {
		for _, change := range changes.GetEvents() {
			bytes := eventBytes(change)
			if size += bytes; size >= w.limit && len(response.Events) > 0 {
				response.Fragment = true
				if err := s.both.Send(response); err != nil {
					return false, err
				}
				response, size = s.response(w, changes), bytes
			}
			response.Events = append(response.Events, event(change))
		}
		if !changes.GetPartial() {
			return more, s.both.Send(response)
		}
		var err error
		if changes, more, err = w.cursor.Poll(ctx); err != nil {
			return false, err
		}
		response.Header.Revision = max(response.Header.Revision, changes.GetHeader().GetRevision())
	}
}

func (s *watchStream) response(w *watch, changes *kvv1.WatchResponse) *pb.WatchResponse {
	return &pb.WatchResponse{
		Header: s.pod.header(changes.GetHeader().GetRevision()), WatchId: w.id,
	}
}

func event(change *kvv1.Event) *mvccpb.Event {
	e := &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: keyValue(change.GetKv()), PrevKv: keyValue(change.GetPrevKv())}
	if change.GetType() == kvv1.Event_TYPE_DELETE {
		e.Type = mvccpb.Event_DELETE
	}
	return e
}

func eventsBytes(changes *kvv1.WatchResponse) (size int) {
	for _, change := range changes.GetEvents() {
		size += eventBytes(change)
	}
	return size
}

func eventBytes(change *kvv1.Event) int {
	kv, prev := change.GetKv(), change.GetPrevKv()
	return len(kv.GetKey()) + len(kv.GetValue()) + len(prev.GetKey()) + len(prev.GetValue()) + eventOverhead
}
