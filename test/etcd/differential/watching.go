package differential

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
)

// patience is for what must come soon.
const patience = 20 * time.Second

// watching is a stream of watches on one system.
type watching struct {
	stream pb.Watch_WatchClient
	end    context.CancelFunc

	mu       sync.Mutex
	changed  chan struct{} // Closed with each response.
	err      error
	progress int64    // Of the last answer to a progress request.
	created  int      // Responses that say so.
	live     int      // Watches that nothing has ended.
	heard    []*heard // By watch id.
	strange  []string // What belongs to no watch.
}

// heard is all of one watch: how it was cut into responses is not compared.
type heard struct {
	created  int64 // The revision of the response that said so.
	events   []*mvccpb.Event
	canceled string // The last response, when it says so.
	pieces   int    // Of a fragmented response that is not whole yet.
}

func watch(ctx context.Context, conn *grpc.ClientConn) (*watching, error) {
	ctx, end := context.WithCancel(ctx)
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		end()
		return nil, err
	}
	w := &watching{stream: stream, end: end, changed: make(chan struct{})}
	go w.listen()
	return w, nil
}

func (w *watching) listen() {
	for {
		r, err := w.stream.Recv()
		w.mu.Lock()
		if err != nil {
			w.err = err
		} else {
			w.hear(r)
		}
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// hear takes a response; w.mu is held.
func (w *watching) hear(r *pb.WatchResponse) {
	if r.GetCreated() {
		w.created++
	}
	id := int(r.GetWatchId())
	switch {
	case r.GetCreated() && !r.GetCanceled():
		if id != len(w.heard) {
			w.strange = append(w.strange, fmt.Sprintf("watch %d is created after %d others", id, len(w.heard)))
			return
		}
		w.live++
		w.heard = append(w.heard, &heard{created: r.GetHeader().GetRevision()})
	case id == -1 && !r.GetCreated() && !r.GetCanceled():
		w.progress = max(w.progress, r.GetHeader().GetRevision())
	case id < 0 || id >= len(w.heard):
		w.strange = append(w.strange, fmt.Sprintf("watch %d, created %v, canceled %v: %s", id, r.GetCreated(), r.GetCanceled(), r.GetCancelReason()))
	default:
		h := w.heard[id]
		h.events = append(h.events, r.GetEvents()...)
		if r.GetFragment() {
			h.pieces++
		} else {
			h.pieces = 0
		}
		if r.GetCanceled() {
			w.live--
			h.canceled = fmt.Sprintf("canceled %q, compacted %d", r.GetCancelReason(), r.GetCompactRevision())
		}
	}
}

// errLate: what was waited for has not come.
var errLate = errors.New("not in time")

// await returns when a condition holds of what was heard.
func (w *watching) await(what string, within time.Duration, is func() bool) error {
	deadline := time.After(within)
	for {
		w.mu.Lock()
		changed, holds, err := w.changed, is(), w.err
		w.mu.Unlock()
		switch {
		case holds:
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		}
		select {
		case <-changed:
		case <-deadline:
			return fmt.Errorf("%s: %w", what, errLate)
		}
	}
}

// create begins a watch, and returns when it has begun or was refused.
func (w *watching) create(req *pb.WatchCreateRequest) error {
	w.mu.Lock()
	before := w.created
	w.mu.Unlock()
	request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}}
	if err := w.stream.Send(request); err != nil {
		return err
	}
	return w.await("a watch is created", patience, func() bool { return w.created > before })
}

// drain returns when all up to a revision was heard. A system need not answer a
// request for progress while a watch is behind, so it is asked again.
func (w *watching) drain(revision int64) error {
	ask := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err = w.stream.Send(ask); err != nil {
			return err
		}
		err = w.await(fmt.Sprint("progress to revision ", revision), 50*time.Millisecond, func() bool {
			return w.live == 0 || w.progress >= revision
		})
		if !errors.Is(err, errLate) {
			return err
		}
	}
	return err
}

func (w *watching) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var text strings.Builder
	for id, h := range w.heard {
		fmt.Fprintf(&text, "watch %d, created at %d, %s, %d pieces:\n", id, h.created, h.canceled, h.pieces)
		for _, event := range h.events {
			fmt.Fprintf(&text, "  %s\n", prototext.MarshalOptions{}.Format(event))
		}
	}
	for _, s := range w.strange {
		fmt.Fprintln(&text, s)
	}
	return text.String()
}
