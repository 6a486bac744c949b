package propose

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
)

// ServeForwards is the master's end of a forwarder's stream. No goroutine waits for
// a command: its answer goes to the stream's outbox. accept queues it, or
// refuses it at once.
func ServeForwards(stream grpc.BidiStreamingServer[peerv1.ForwardRequest, peerv1.ForwardResponse], accept func(*Pending, *kvv1.Command) error) error {
	out := &outbox{stream: stream, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		out.run()
	}()
	defer func() {
		close(out.ended)
		<-sent
	}()
	for {
		req, err := stream.Recv()
		if err != nil {
			return nil // the follower's end of it; what is in flight goes on
		}
		p := forwarded.Get().(*Pending)
		p.id, p.sink = req.Id, out.put
		if err := accept(p, req.Command); err != nil {
			p.answer(nil, err)
		}
	}
}

// Accept queues a follower's command, once it has passed what a client's does: the
// follower may be of another version, or out of order. After an error nothing was
// proposed.
func (r *Router) Accept(p *Pending, c *kvv1.Command) error {
	if !r.replica.Views.Load().Leads {
		return errNotProposed // never a second hop
	}
	if size := commandSize(c); size > replication.MaxCommandBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", replication.ErrTooLarge, size, replication.MaxCommandBytes)
	}
	if r.check != nil {
		if err := r.check(c); err != nil {
			return err
		}
	}
	return r.Proposer.enqueue(p, c)
}

// outbox are the answers that wait for their stream. It is bounded by the
// proposer's queue and what is in flight.
type outbox struct {
	stream grpc.BidiStreamingServer[peerv1.ForwardRequest, peerv1.ForwardResponse]
	wake   chan struct{}
	ended  chan struct{}

	mu    sync.Mutex // guards items
	items []*Pending
}

func (o *outbox) put(p *Pending) {
	o.mu.Lock()
	o.items = append(o.items, p)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) run() {
	var burst []*Pending
	for {
		select {
		case <-o.wake:
		case <-o.ended:
			return
		}
		o.mu.Lock()
		burst, o.items = o.items, burst[:0]
		o.mu.Unlock()
		for i, p := range burst {
			burst[i] = nil
			m := &peerv1.ForwardResponse{Id: p.id}
			if p.err != nil {
				m.Outcome = &peerv1.ForwardResponse_Error{Error: toWire(p.err)}
			} else {
				m.Outcome, m.Index = &peerv1.ForwardResponse_Result{Result: p.result}, p.index
			}
			p.release()
			if err := o.stream.Send(m); err != nil {
				<-o.ended // Recv sees it, too
				return
			}
		}
	}
}

// forwardable are the errors that mean something at the other end. Any other is an
// unknown outcome there.
var forwardable = []error{errNotProposed, replication.ErrOverloaded, replication.ErrTooLarge, replication.ErrNotReady, replication.ErrUnknown}

// refusals are the reasons of a check, which are the caller's as they are. Earlier
// versions take them for an unknown outcome.
var refusals = []kvv1.ErrorReason{
	kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST, kvv1.ErrorReason_ERROR_REASON_NO_SPACE, kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED,
}

// toWire gives an error the form that pods of every version send. Only the reason
// is read at the other end; the code is not.
func toWire(err error) *kvv1.Error {
	sent := &kvv1.Error{Code: uint32(codes.Unavailable), Reason: refusal.Reason(err), Message: err.Error()}
	switch {
	case slices.Contains(refusals, sent.Reason):
		sent.Code, sent.Metadata = uint32(refusal.Code(err)), refusal.Of(err).Metadata
	case errors.Is(err, replication.ErrClosed): // the next master may take what this one did not
		sent.Reason = kvv1.ErrorReason_ERROR_REASON_NO_MASTER
	case !slices.ContainsFunc(forwardable, func(f error) bool { return refusal.Reason(f) == sent.Reason }):
		sent.Code, sent.Reason = uint32(codes.InvalidArgument), kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN
	}
	return sent
}

// fromWire reads an error of the master.
func fromWire(e *kvv1.Error) error {
	if slices.Contains(refusals, e.Reason) {
		return &refusal.Error{Reason: e.Reason, Message: e.Message, Metadata: e.Metadata}
	}
	for _, f := range forwardable {
		if refusal.Reason(f) == e.Reason {
			return fmt.Errorf("%w: %s", f, e.Message)
		}
	}
	return fmt.Errorf("%w: %s", replication.ErrUnknown, e.Message)
}

// OpenStreams counts streams, and tells when there is none.
type OpenStreams struct {
	mu   sync.Mutex // guards the fields below
	open int
	none chan struct{} // closed when open falls to 0; nil: nobody waits
}

// Add counts a stream until done is called.
func (o *OpenStreams) Add() (done func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open++
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.open--; o.open == 0 && o.none != nil {
			close(o.none)
			o.none = nil
		}
	}
}

// Wait returns when there is no stream, or when ctx ends. One at a time waits.
func (o *OpenStreams) Wait(ctx context.Context) {
	o.mu.Lock()
	if o.open == 0 {
		o.mu.Unlock()
		return
	}
	none := make(chan struct{})
	o.none = none
	o.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}
