package server

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/masterstream"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// keepAlivePatience is how long the master may owe answers to keep-alives and give
// none before the stream to it is taken for dead.
const keepAlivePatience = 3 * time.Second

// keepAliveForwarder passes the keep-alives of all of a follower's clients to the
// master over one stream.
type keepAliveForwarder struct {
	core  *core
	calls chan *forwardedKeepAlive
	next  *forwardedKeepAlive // Begins the next stream; only run's goroutine touches it.
}

// forwardedKeepAlive is one keep-alive on its way.
type forwardedKeepAlive struct {
	id     int64
	answer chan keepAliveAnswer // Buffered: whoever answers never waits.
}

type keepAliveAnswer struct {
	response *kvv1.KeepAliveResponse
	err      error
}

func newKeepAliveForwarder(c *core) *keepAliveForwarder {
	return &keepAliveForwarder{core: c, calls: make(chan *forwardedKeepAlive, maxKeepAliveQueue)}
}

func (r *keepAliveForwarder) keepAlive(ctx context.Context, id int64) (*kvv1.KeepAliveResponse, error) {
	one := &forwardedKeepAlive{id: id, answer: make(chan keepAliveAnswer, 1)}
	select {
	case r.calls <- one:
	default:
		return nil, replication.ErrOverloaded
	}
	select {
	case answer := <-one.answer:
		return answer.response, answer.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *keepAliveForwarder) timeToLive(ctx context.Context, req *kvv1.TimeToLiveRequest) (*kvv1.TimeToLiveResponse, error) {
	log, err := r.core.needLog()
	if err != nil {
		return nil, err
	}
	conn, err := log.MasterConn(ctx)
	if err != nil {
		return nil, err
	}
	if conn == nil { // It is this pod, since a moment ago.
		return nil, replication.ErrNoMaster
	}
	response, err := kvv1.NewLeaseServiceClient(conn).TimeToLive(ctx, req)
	return response, fromMaster(err)
}

// run keeps a stream to the master for as long as there is something to say.
func (r *keepAliveForwarder) run(ctx context.Context) {
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		select {
		case r.next = <-r.calls:
		case <-ctx.Done():
			return
		}
		for r.next != nil {
			r.session(ctx, &streams)
		}
	}
}

// session runs one stream. It begins with r.next, and ends when the stream fails or
// when a call is for another master: that call is then r.next. Calls without an
// answer fail with NO_MASTER, and their callers may repeat them.
func (r *keepAliveForwarder) session(ctx context.Context, streams *sync.WaitGroup) {
	ctx, cancel := context.WithCancel(ctx)
	master, stream, err := r.open(ctx)
	if err != nil {
		cancel()
		r.next.answer <- keepAliveAnswer{err: err}
		r.next = nil
		return
	}
	s := masterstream.Session[*forwardedKeepAlive, kvv1.KeepAliveRequest, kvv1.KeepAliveResponse]{
		Calls:  &keepAlives{forwarder: r, master: master, sent: map[int64][]*forwardedKeepAlive{}},
		Stream: stream, Cancel: cancel, Silence: keepAlivePatience,
	}
	s.Run(ctx, nil, streams)
}

func (r *keepAliveForwarder) master() (string, bool) {
	log, err := r.core.needLog()
	if err != nil {
		return "", false
	}
	return log.Master()
}

func (r *keepAliveForwarder) open(ctx context.Context) (string, grpc.BidiStreamingClient[kvv1.KeepAliveRequest, kvv1.KeepAliveResponse], error) {
	master, ok := r.master()
	if !ok {
		return "", nil, replication.ErrNoMaster
	}
	log, err := r.core.needLog()
	if err != nil {
		return "", nil, err
	}
	patience, cancel := context.WithTimeout(ctx, keepAlivePatience)
	defer cancel()
	conn, err := log.MasterConn(patience)
	if err != nil {
		return "", nil, err
	}
	if conn == nil { // It is this pod, since a moment ago.
		return "", nil, replication.ErrNoMaster
	}
	out, err := kvv1.NewLeaseServiceClient(conn).KeepAlive(ctx)
	return master, out, fromMaster(err)
}

// keepAlives implements masterstream.Calls for one stream.
type keepAlives struct {
	forwarder *keepAliveForwarder
	master    string
	sent      map[int64][]*forwardedKeepAlive // By lease, in order.
}

func (k *keepAlives) Next(ctx context.Context, into []*forwardedKeepAlive) []*forwardedKeepAlive {
	r := k.forwarder
	if r.next == nil {
		select {
		case r.next = <-r.calls:
		case <-ctx.Done():
			return into
		}
		if now, ok := r.master(); !ok || now != k.master {
			return into
		}
	}
	into, r.next = append(into, r.next), nil
	return into
}

func (k *keepAlives) Request(one *forwardedKeepAlive) *kvv1.KeepAliveRequest {
	return &kvv1.KeepAliveRequest{Id: one.id}
}

func (k *keepAlives) Add(one *forwardedKeepAlive) { k.sent[one.id] = append(k.sent[one.id], one) }

func (k *keepAlives) Remove(one *forwardedKeepAlive) {
	k.sent[one.id] = slices.DeleteFunc(k.sent[one.id], func(other *forwardedKeepAlive) bool { return other == one })
}

// Match returns whoever has waited longest for the lease. Answers may come in any
// order: nobody gets one before the lease was renewed as often as it was asked.
func (k *keepAlives) Match(response *kvv1.KeepAliveResponse) (*forwardedKeepAlive, bool) {
	waiting := k.sent[response.GetId()]
	if len(waiting) == 0 {
		return nil, false
	}
	if k.sent[response.GetId()] = waiting[1:]; len(waiting) == 1 {
		delete(k.sent, response.GetId())
	}
	return waiting[0], true
}

func (k *keepAlives) Rest() []*forwardedKeepAlive {
	return slices.Concat(slices.Collect(maps.Values(k.sent))...)
}

func (k *keepAlives) Answer(one *forwardedKeepAlive, response *kvv1.KeepAliveResponse) {
	one.answer <- keepAliveAnswer{response: response}
}

func (k *keepAlives) Unsent(one *forwardedKeepAlive) {
	one.answer <- keepAliveAnswer{err: replication.ErrNoMaster}
}

func (k *keepAlives) Lost(one *forwardedKeepAlive, err error) {
	switch {
	case errors.Is(err, masterstream.ErrSilent):
		err = errMasterSilent
	case status.Code(err) == codes.Canceled: // The session has ended the stream.
		err = replication.ErrNoMaster
	}
	one.answer <- keepAliveAnswer{err: fromMaster(err)}
}

var errMasterSilent = &refusal.Error{
	Reason:  kvv1.ErrorReason_ERROR_REASON_NO_MASTER,
	Message: "the master does not answer keep-alives",
}
