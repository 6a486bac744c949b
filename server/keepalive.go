package server

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// keepAlivePatience is how long the master may take for one keep-alive before the
// stream to it is taken for dead.
const keepAlivePatience = 3 * time.Second

// keepAliveForwarder passes the keep-alives of a follower's clients to the master, those of
// all clients over one stream.
type keepAliveForwarder struct {
	*core
	calls chan *forwardedKeepAlive
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
	log, err := r.needLog()
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
	for {
		select {
		case first := <-r.calls:
			for first != nil {
				first = r.session(ctx, first)
			}
		case <-ctx.Done():
			return
		}
	}
}

// session is one stream, from its first call until it fails or the master is
// another: then it returns the call that the next session begins with. All that
// wait are told that there is no master; they may ask again.
func (r *keepAliveForwarder) session(ctx context.Context, first *forwardedKeepAlive) (next *forwardedKeepAlive) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	waiting := waiters{}
	master, out, err := r.open(ctx)
	if err != nil {
		first.answer <- keepAliveAnswer{err: err}
		return nil
	}
	answers := make(chan keepAliveAnswer)
	go receiveAnswers(ctx, out, answers)
	patience := time.NewTicker(keepAlivePatience)
	defer patience.Stop()
	err = waiting.send(out, first)
	for err == nil {
		select {
		case one := <-r.calls:
			if now, ok := r.master(); !ok || now != master {
				next, err = one, replication.ErrNoMaster
				break
			}
			err = waiting.send(out, one)
		case answer := <-answers:
			if err = answer.err; err == nil {
				waiting.take(answer.response)
			}
		case <-patience.C:
			err = waiting.check()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	waiting.fail(fromMaster(err))
	return next
}

func (r *keepAliveForwarder) master() (string, bool) {
	log, err := r.needLog()
	if err != nil {
		return "", false
	}
	return log.Master()
}

type keepAliveStream = grpc.BidiStreamingClient[kvv1.KeepAliveRequest, kvv1.KeepAliveResponse]

func (r *keepAliveForwarder) open(ctx context.Context) (string, keepAliveStream, error) {
	master, ok := r.master()
	if !ok {
		return "", nil, replication.ErrNoMaster
	}
	log, err := r.needLog()
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

// receiveAnswers ends with the stream, or with the session's context.
func receiveAnswers(ctx context.Context, out keepAliveStream, answers chan<- keepAliveAnswer) {
	for {
		response, err := out.Recv()
		select {
		case answers <- keepAliveAnswer{response: response, err: err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// waiters are the keep-alives that were sent, by lease.
type waiters map[int64]*waiter

type waiter struct {
	calls []*forwardedKeepAlive
	// asked: a whole round of keepAlivePatience has begun since it was sent.
	asked bool
}

// send asks the master; answers for one lease come back in any order, and each
// is as good for any of its waiters that were sent before it came.
func (w waiters) send(out keepAliveStream, one *forwardedKeepAlive) error {
	if w[one.id] == nil {
		w[one.id] = &waiter{}
	}
	w[one.id].calls = append(w[one.id].calls, one)
	return out.Send(&kvv1.KeepAliveRequest{Id: one.id})
}

// take gives the answer to the one that waits longest for this lease.
func (w waiters) take(response *kvv1.KeepAliveResponse) {
	found := w[response.GetId()]
	if found == nil {
		return
	}
	found.calls[0].answer <- keepAliveAnswer{response: response}
	found.calls, found.asked = found.calls[1:], false
	if len(found.calls) == 0 {
		delete(w, response.GetId())
	}
}

// check is called every keepAlivePatience.
func (w waiters) check() error {
	for _, waits := range w {
		if waits.asked {
			return errMasterSilent
		}
		waits.asked = true
	}
	return nil
}

func (w waiters) fail(err error) {
	for _, waits := range w {
		for _, one := range waits.calls {
			one.answer <- keepAliveAnswer{err: err}
		}
	}
}

var errMasterSilent = &refusal.Error{
	Reason:  kvv1.ErrorReason_ERROR_REASON_NO_MASTER,
	Message: "the master does not answer keep-alives",
}
