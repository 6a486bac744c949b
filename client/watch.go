package client

import (
	"bytes"
	"context"
	"iter"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	defaultProgress = time.Second
	minProgress     = 100 * time.Millisecond
)

// Watch streams the changes of keys, each once and in the order of revisions,
// until ctx ends. It goes on, on another pod, where a lost stream ended.
//
// The first response has no events: it says the revision that the watch starts
// after. A response without events later is progress: every change up to its
// header's revision was given. The events of one revision may come in several
// responses, of which all but the last say Partial.
//
// The iterator gives one error, as its last pair. [ErrCompacted] says that
// changes are not kept any more that the watch has yet to give; the metadata
// "oldest_revision" is where a new watch can start, after reading the keys.
// [ErrOtherCluster] says that another history is where the watch began or was to
// begin.
func (c *Client) Watch(ctx context.Context, keys Keys, options ...WatchOption) iter.Seq2[*kvv1.WatchResponse, error] {
	return func(yield func(*kvv1.WatchResponse, error) bool) {
		o := with[watchOptions](options)
		w, err := newWatch(c, keys, o, yield)
		if err == nil && o.revision == 0 {
			err = w.fromNow(ctx)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		if err := c.stream(ctx, anyPod, w.run); err != nil && !w.stopped {
			yield(nil, err)
		}
	}
}

// watch is a watch on its way over one or more streams.
type watch struct {
	client  *Client
	request *kvv1.WatchRequest
	// after is the revision up to which the caller has every change.
	after   int64
	started bool
	stopped bool
	// Of a revision that was given in part (else 0): how many of its events were
	// given, and the last one's key. Another stream starts with it again.
	partial     int64
	partialSeen int
	partialKey  []byte
	yield       func(*kvv1.WatchResponse, error) bool
}

func newWatch(c *Client, keys Keys, o watchOptions, yield func(*kvv1.WatchResponse, error) bool) (*watch, error) {
	if err := keys.check(); err != nil {
		return nil, err
	}
	if o.progress == 0 {
		o.progress = defaultProgress
	}
	if o.progress < minProgress {
		return nil, invalid("Progress is %v, the least is %v", o.progress, minProgress)
	}
	if o.revision < 0 {
		return nil, invalid("FromRevision is negative")
	}
	request := &kvv1.WatchRequest{
		Key: []byte(keys.first), RangeEnd: keys.endBytes(), StartRevision: o.revision,
		PrevKv: o.prevKV, ProgressIntervalMs: uint32(o.progress.Milliseconds()), ClusterId: c.clusterID(),
	}
	if o.noPuts {
		request.Exclude = append(request.Exclude, kvv1.Event_TYPE_PUT)
	}
	if o.noDeletes {
		request.Exclude = append(request.Exclude, kvv1.Event_TYPE_DELETE)
	}
	return &watch{client: c, request: request, after: o.revision - 1, yield: yield}, nil
}

// fromNow makes the watch start after everything that was there before. "Now" on
// a pod that is behind is too early, and on the next pod, if that stream breaks
// before its first message, too late.
func (w *watch) fromNow(ctx context.Context) error {
	seen := w.client.Revision()
	newest, err := w.client.readRange(ctx, Key("\x00"), true, nil)
	if err != nil {
		return err
	}
	w.after = max(seen, newest.GetHeader().GetRevision())
	w.request.StartRevision = w.after + 1
	return nil
}

// run watches over one stream, from where the last one ended.
func (w *watch) run(ctx context.Context, conn *grpc.ClientConn, alive *watchdog) error {
	stream, err := kvv1.NewWatchServiceClient(conn).Watch(ctx, w.request)
	if err != nil {
		return err
	}
	skip := w.partialSeen
	for {
		response, err := stream.Recv()
		if err != nil {
			return w.temper(err)
		}
		alive.pause()
		if id := response.GetClusterId(); id != "" {
			w.request.ClusterId = id // to resume in no other
			w.client.observeCluster(id)
		}
		alive.timeout = time.Duration(w.request.GetProgressIntervalMs()) * time.Millisecond * 5 / 2
		w.client.observe(response.GetHeader().GetRevision())
		// With events the header says how far the pod is, not how far the watch is.
		complete := response.GetHeader().GetRevision()
		if events := response.GetEvents(); len(events) > 0 {
			complete = events[len(events)-1].GetKv().GetModRevision()
		}
		if err := w.dropSeen(response, &skip); err != nil {
			return err
		}
		if !w.give(response, complete) {
			w.stopped = true
			return nil
		}
		w.request.StartRevision = w.after + 1
		alive.resume()
	}
}

// temper makes "does not exist yet" worth another attempt where it only means
// that this pod is behind.
func (w *watch) temper(err error) error {
	e := fromRPC(err)
	if e.Reason == kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION && w.request.GetStartRevision() <= w.client.Revision()+1 {
		e.Reason = kvv1.ErrorReason_ERROR_REASON_NOT_READY
	}
	return e
}

// dropSeen removes from a response the events that the caller has already.
func (w *watch) dropSeen(response *kvv1.WatchResponse, skip *int) error {
	events := response.GetEvents()
	for len(events) > 0 {
		kv := events[0].GetKv()
		switch {
		case kv.GetModRevision() <= w.after:
		case *skip > 0 && kv.GetModRevision() == w.partial:
			*skip--
			if *skip == 0 && !bytes.Equal(kv.GetKey(), w.partialKey) {
				return invalid("two pods gave the events of revision %d in different orders", w.partial)
			}
		default:
			response.Events = events
			return nil
		}
		events = events[1:]
	}
	response.Events = nil
	return nil
}

// give passes a response on and notes how far the caller is; false to stop.
// complete is the revision up to which it has every change with this response.
func (w *watch) give(response *kvv1.WatchResponse, complete int64) bool {
	events := response.GetEvents()
	if response.GetPartial() {
		if len(events) == 0 {
			return true // all of it was given before the stream broke
		}
		w.notePartial(events)
	} else {
		w.after = max(w.after, complete)
		if w.after >= w.partial {
			w.partial, w.partialSeen, w.partialKey = 0, 0, nil
		}
	}
	if !w.started {
		w.started = true
		response.Header = &kvv1.ResponseHeader{Revision: w.after, Pod: response.GetHeader().GetPod()}
	}
	return w.yield(response, nil)
}

// notePartial counts the events of the revision that is not complete.
func (w *watch) notePartial(events []*kvv1.Event) {
	last := events[len(events)-1].GetKv()
	if last.GetModRevision() != w.partial {
		w.partial, w.partialSeen = last.GetModRevision(), 0
	}
	for i := len(events) - 1; i >= 0 && events[i].GetKv().GetModRevision() == w.partial; i-- {
		w.partialSeen++
	}
	w.partialKey = last.GetKey()
	w.after = max(w.after, w.partial-1)
}
