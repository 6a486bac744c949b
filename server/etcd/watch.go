package etcd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
)

const (
	// progressInterval of watches with progress_notify. etcd's default is ten
	// minutes; this is what Kubernetes sets its etcd to, and it costs a message
	// of some bytes.
	progressInterval = 5 * time.Second
	// progressPatience is how long the answer to a progress request waits for the
	// master's word on what is newest. Without it the pod's own has to do.
	progressPatience = time.Second
	// progressPoll is how often watches are asked whether they have caught up.
	progressPoll = 2 * time.Millisecond
	// maxWatchBound is the longest key and the byte after it.
	maxWatchBound = server.MaxKeyBytes + 1
	// noWatch is the id in an answer that is for no watch, or for all of them.
	noWatch = -1
)

// What etcd says when it refuses a watch.
const (
	duplicateWatch = "mvcc: duplicate watch ID provided on the WatchStream"
	emptyRange     = "mvcc: watcher range is empty"
)

// local reads of this pod; it only asks whether the pod may serve.
var local = &kvv1.ReadOptions{Consistency: kvv1.Consistency_CONSISTENCY_LOCAL}

// watchService answers etcdserverpb.Watch.
type watchService struct {
	pb.UnsafeWatchServer
	pod  *pod
	last atomic.Pointer[translated]
}

// watchStream is one stream with its watches: each is a cursor over the store's
// changes, and holds no events. Only run's goroutine touches the fields unless
// noted, so that what is ready together is sent together, and nothing comes between
// the parts of a response.
type watchStream struct {
	pod      *pod
	both     pb.Watch_WatchServer
	watches  map[int64]*watch
	nextID   int64
	ready    readyWatches
	last     *atomic.Pointer[translated] // The service's.
	progress progress
}

// Watch serves a stream until it, the pod or what it serves from ends.
func (s *watchService) Watch(both pb.Watch_WatchServer) error {
	ctx, end := context.WithCancelCause(both.Context())
	stream := &watchStream{
		pod: s.pod, both: both, watches: map[int64]*watch{}, ready: readyWatches{wake: make(chan struct{}, 1)}, last: &s.last,
	}
	requests := make(chan *pb.WatchRequest)
	s.pod.Go(func() { receive(ctx, both.Recv, requests, end) })
	err := stream.run(ctx, requests)
	end(err)
	stream.close()
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	switch refusal.Reason(err) {
	case kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS:
		return errTokenEnded
	}
	return s.pod.fail(ctx, err)
}

func (s *watchStream) close() {
	for _, w := range s.watches {
		w.cursor.Close()
	}
	s.progress.asking.Wait()
}

// receive passes on what the client says, and closes the channel when it has no more
// to say. It runs in a goroutine of its own because only the end of the method ends
// a Recv; so it outlives the method by a moment.
func receive[Request any](ctx context.Context, recv func() (*Request, error), requests chan<- *Request, end context.CancelCauseFunc) {
	defer close(requests)
	for {
		req, err := recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			end(err)
			return
		}
		select {
		case requests <- req:
		case <-ctx.Done():
			return
		}
	}
}

func (s *watchStream) run(ctx context.Context, requests <-chan *pb.WatchRequest) error {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		var err error
		select {
		case req, more := <-requests:
			if !more {
				requests = nil // The events go on.
				continue
			}
			err = s.handle(ctx, req)
		case <-s.ready.wake:
			err = s.deliver(ctx)
		case <-tick.C:
			err = s.notifyProgress(ctx)
		case <-s.progress.asked:
			err = s.beginProgress(ctx)
		case <-s.progress.retry:
			err = s.tellProgress()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

func (s *watchStream) handle(ctx context.Context, req *pb.WatchRequest) error {
	switch {
	case req.GetCreateRequest() != nil:
		return s.create(ctx, req.GetCreateRequest())
	case req.GetCancelRequest() != nil:
		return s.cancel(ctx, req.GetCancelRequest().GetWatchId())
	case req.GetProgressRequest() != nil:
		s.requestProgress(ctx)
	}
	return nil
}

// revision returns this pod's newest revision; it fails when the pod may not serve.
func (s *watchStream) revision(ctx context.Context) (int64, error) {
	st, err := s.pod.Read(ctx, local)
	if err != nil {
		return 0, err
	}
	return st.Revision(), nil
}

// create begins a watch, or tells the client why not. An error ends the stream, and
// the client goes on elsewhere.
func (s *watchStream) create(ctx context.Context, req *pb.WatchCreateRequest) error {
	newest, err := s.revision(ctx)
	if err != nil {
		return err
	}
	w := newWatch(req)
	if reason := refusal.Reason(s.pod.MayWatch(ctx, w.changes)); barred[reason] {
		return s.refuse(newest, errorOf[reason].Error())
	}
	if why := s.check(w, req); why != "" {
		return s.refuse(newest, why)
	}
	w.cursor, err = s.pod.Watch(ctx, w.changes)
	switch reason := refusal.Reason(err); {
	case err == nil:
	case reason == kvv1.ErrorReason_ERROR_REASON_TOO_MANY, reason == kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED:
		return s.refuse(newest, rpctypes.ErrTooManyRequests.Error())
	case barred[reason]:
		return s.refuse(newest, errorOf[reason].Error())
	case reason != kvv1.ErrorReason_ERROR_REASON_COMPACTED:
		return err
	}
	w.id = s.choose(req.GetWatchId())
	if w.cursor != nil && w.changes.GetStartRevision() == 0 {
		// Clients resume from here: never name a revision after the watch's start.
		newest = w.cursor.Start()
	}
	if w.cursor != nil {
		s.watches[w.id] = w
	}
	err = s.both.Send(&pb.WatchResponse{Header: s.pod.header(newest), WatchId: w.id, Created: true})
	switch {
	case err != nil:
		return err
	case w.cursor == nil:
		return s.compacted(ctx, w)
	}
	w.cursor.OnReady(func() chan<- struct{} { return s.ready.add(w) })
	return nil
}

// barred are the reasons for which a caller may not watch some keys. Of the first two,
// clients that know a password get a new token, and watch again.
var barred = map[kvv1.ErrorReason]bool{
	kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED:   true,
	kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS:    true,
	kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED: true,
}

// check says what is wrong with a watch, in etcd's words.
func (s *watchStream) check(w *watch, req *pb.WatchCreateRequest) string {
	key, end := w.changes.GetKey(), w.changes.GetRangeEnd()
	fromKey := len(end) == 1 && end[0] == 0
	switch {
	case req.GetStartRevision() < 0:
		return rpctypes.ErrCompacted.Error()
	case len(key) > maxWatchBound || len(end) > maxWatchBound:
		return rpctypes.ErrRequestTooLarge.Error()
	case len(end) > 0 && !fromKey && bytes.Compare(key, end) >= 0:
		return emptyRange
	case req.GetWatchId() != 0 && s.watches[req.GetWatchId()] != nil:
		return duplicateWatch
	}
	return ""
}

func (s *watchStream) refuse(revision int64, reason string) error {
	return s.both.Send(&pb.WatchResponse{
		Header: s.pod.header(revision), WatchId: noWatch, Created: true, Canceled: true, CancelReason: reason,
	})
}

// choose returns the client's id, or the next free one for 0.
func (s *watchStream) choose(id int64) int64 {
	if id != 0 {
		return id
	}
	for s.watches[s.nextID] != nil {
		s.nextID++
	}
	s.nextID++
	return s.nextID - 1
}

// cancel ends a watch at the client's wish: nothing of it is sent afterwards.
func (s *watchStream) cancel(ctx context.Context, id int64) error {
	newest, err := s.revision(ctx)
	if err != nil {
		return err
	}
	if s.watches[id] == nil {
		return nil
	}
	s.drop(s.watches[id])
	return s.both.Send(&pb.WatchResponse{Header: s.pod.header(newest), WatchId: id, Canceled: true})
}

func (s *watchStream) drop(w *watch) {
	delete(s.watches, w.id)
	w.cursor.Close()
}

// compacted tells a client that its watch wants revisions that are no longer kept.
func (s *watchStream) compacted(ctx context.Context, w *watch) error {
	st, err := s.pod.Read(ctx, local)
	if err != nil {
		return err
	}
	return s.both.Send(&pb.WatchResponse{
		Header: s.pod.header(0), WatchId: w.id, Canceled: true, CompactRevision: st.Status().Compacted,
	})
}
