package client

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// checkInterval is how often a stream with batches on their way is asked whether
// it hangs, and whether the master is another pod now.
const checkInterval = 250 * time.Millisecond

// run is the sender: it opens a stream when there is something to send, and
// another one when that breaks.
func (b *Batcher) run() {
	defer close(b.done)
	ctx := b.client.ctx
	var backoff pause
	var p *pod
	for b.awaitWork(ctx) {
		p = b.client.pods.pick(theMaster, p)
		e, worked := b.overStream(ctx, p)
		if e == nil {
			continue // on to another pod, or closed
		}
		b.client.pods.failed(p, e)
		b.again(e)
		if worked {
			backoff = pause{}
		}
		patience, cancel := context.WithDeadline(ctx, b.soonest())
		backoff.wait(patience, e)
		cancel()
	}
	b.giveUp()
}

// soonest is when the first of the batches that wait, or are given from now on, has been
// tried for long enough.
func (b *Batcher) soonest() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	end := time.Now().Add(b.options.Timeout)
	for _, t := range b.waiting {
		if its := t.created.Add(b.options.Timeout); its.Before(end) {
			end = its
		}
	}
	return end
}

// awaitWork waits for something to send; false at the end of the Batcher.
func (b *Batcher) awaitWork(ctx context.Context) bool {
	for {
		b.mu.Lock()
		work, closed := len(b.waiting) > 0, b.closed && b.pending == 0
		b.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return false
		case work:
			return true
		case closed:
			return false
		}
		select {
		case <-b.wake:
		case <-ctx.Done():
		}
	}
}

// overStream sends over one stream until it breaks, which is an error; or until
// there is a better pod, or the Batcher was closed and has all its answers.
// worked says that an answer came.
func (b *Batcher) overStream(ctx context.Context, p *pod) (e *Error, worked bool) {
	if e := p.connect(ctx, b.client.options.DialTimeout); e != nil {
		return e, false
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stream, err := p.conn.NewStream(ctx, &kvv1.KVService_ServiceDesc.Streams[batchStream],
		kvv1.KVService_Batch_FullMethodName, grpc.ForceCodecV2(batchCodec{}))
	if err != nil {
		cancel(nil)
		return fromRPC(err), false
	}
	broken := make(chan *Error, 1)
	go func() {
		e := b.receive(stream, &worked)
		cancel(e)
		broken <- e
	}()
	// A send blocks when the pod does not read, so it has a watchdog of its own.
	sending := time.AfterFunc(time.Hour, func() { cancel(errHangs) })
	defer sending.Stop()
	more := b.pump(ctx, stream, p, sending)
	if !more {
		cancel(errMoveOn)
	}
	cancel(nil)
	e = <-broken
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errMoveOn):
		b.again(nil)
		return nil, worked
	case errors.Is(cause, errHangs):
		e = &Error{Code: codes.DeadlineExceeded, Message: p.address + " does not answer"}
	}
	return e, worked
}

// errMoveOn ended a stream that was good.
var errMoveOn = errors.New("this stream is not needed any more")

// batchStream is the index of Batch in the service's streams.
var batchStream = slices.IndexFunc(kvv1.KVService_ServiceDesc.Streams, func(s grpc.StreamDesc) bool {
	return s.StreamName == "Batch"
})

// pump sends batches while fewer than InFlight are on their way. It returns
// false when the stream is not needed any more: the Batcher was closed, or the
// master is another pod, to which unanswered batches go again (their ids make
// that safe); true when the stream broke.
func (b *Batcher) pump(ctx context.Context, stream grpc.ClientStream, p *pod, sending *time.Timer) bool {
	patience := 2 * b.client.options.AttemptTimeout
	check := time.NewTicker(checkInterval)
	defer check.Stop()
	for {
		t, closed := b.take()
		if closed {
			return false
		}
		if t != nil {
			sending.Reset(timeoutOf(patience, t.sends-1))
			err := stream.SendMsg(frame(t.id, t.body, t.request))
			sending.Stop()
			if err != nil {
				return true
			}
			continue
		}
		select {
		case <-b.wake:
		case <-ctx.Done():
			return true
		case <-check.C:
			if v := b.client.pods.view.Load(); v.master != nil && v.master != p && v.master.usable() {
				return false
			}
			if b.hangs(patience) {
				sending.Reset(0)
				<-ctx.Done()
				return true
			}
		}
	}
}

// take moves the next batch into flight; nil when there is none to send now,
// closed when there will be none any more.
func (b *Batcher) take() (t *batch, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		return nil, b.closed && b.pending == 0
	}
	if len(b.flight) >= b.options.InFlight || time.Now().Before(b.resume) {
		return nil, false
	}
	t = b.waiting[0]
	b.waiting = slices.Delete(b.waiting, 0, 1)
	b.free()
	b.lastID++
	t.id, t.sent = b.lastID, time.Now()
	t.sends++
	if t.request == nil {
		t.request = b.client.newRequestID()
	}
	b.flight[t.id] = t
	return t, false
}

// hangs says that a batch waits for its answer for too long.
func (b *Batcher) hangs(patience time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.flight {
		if time.Since(t.sent) > timeoutOf(patience, t.sends-1) {
			return true
		}
	}
	return false
}

// again takes back what is in flight after its stream ended, to be sent over
// another one, and gives up what is too old. e is nil when the stream was ended
// on purpose.
func (b *Batcher) again(e *Error) {
	b.mu.Lock()
	var back []*batch
	for id, t := range b.flight {
		delete(b.flight, id)
		t.unknown = true
		back = append(back, t)
	}
	slices.SortFunc(back, func(x, y *batch) int { return cmp.Compare(x.id, y.id) })
	b.waiting = append(back, b.waiting...)
	late := b.takeLate(e)
	b.mu.Unlock()
	for _, t := range late {
		b.fail(t, t.late(e))
	}
}

// takeLate removes the batches that are past their time. The lock is held.
func (b *Batcher) takeLate(e *Error) (late []*batch) {
	b.waiting = slices.DeleteFunc(b.waiting, func(t *batch) bool {
		if e == nil || time.Since(t.created) < b.options.Timeout {
			return false
		}
		late = append(late, t)
		return true
	})
	b.free()
	return late
}

// late is the error of a batch that is past its time.
func (t *batch) late(e *Error) *Error {
	if t.unknown {
		return unknownBecause(e)
	}
	return e
}

// giveUp ends what is left when the client is closed.
func (b *Batcher) giveUp() {
	b.mu.Lock()
	b.closed = true
	b.free()
	left := b.waiting
	b.waiting = nil
	for id, t := range b.flight {
		t.unknown = true
		left = append(left, t)
		delete(b.flight, id)
	}
	b.mu.Unlock()
	for _, t := range left {
		b.fail(t, t.late(closedError()))
	}
}
