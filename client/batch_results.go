package client

import (
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// receive reads answers until the stream breaks.
func (b *Batcher) receive(stream grpc.ClientStream, worked *bool) *Error {
	for {
		var a answer
		if err := stream.RecvMsg(&a); err != nil {
			return fromRPC(err)
		}
		*worked = true
		b.mu.Lock()
		t := b.flight[a.id]
		b.mu.Unlock()
		switch {
		case t == nil: // an answer to nothing; harmless
		case a.err != nil:
			b.refused(t, fromMessage(a.err))
		default:
			b.land(t, 0)
			b.answered(t, &a)
		}
	}
}

// land takes a batch out of flight and puts at the head what is to be sent
// again, after a pause. Both under one lock: in between, the next batch would
// have room to overtake it.
func (b *Batcher) land(t *batch, pause time.Duration, again ...*batch) {
	b.mu.Lock()
	delete(b.flight, t.id)
	if len(again) > 0 {
		b.waiting = append(again, b.waiting...)
		// What makes one wait (no master, a full queue) makes all of them wait.
		b.resume = time.Now().Add(pause)
	}
	more := len(b.waiting) > 0
	b.mu.Unlock()
	switch {
	case more && pause > 0:
		time.AfterFunc(pause, b.signal)
	case more:
		b.signal()
	}
}

// refused handles a batch of which, this time, nothing was applied, or of which
// that is unknown.
func (b *Batcher) refused(t *batch, e *Error) {
	a := attempts{client: b.client, unknown: t.unknown, call: call{write: true, id: t.request}}
	err := a.judge(e)
	t.unknown = a.unknown
	left := b.options.Timeout - time.Since(t.created)
	switch {
	case err == nil && left > 0:
		b.client.pods.refresh()
		b.land(t, min(left, max(e.retryAfter(), timeoutOf(minBackoff, min(t.sends, 4)))), t)
		return
	case err == nil:
		err = t.late(e)
	case len(t.writes) > 1 && (e.aboutRequest() || !t.unknown && e.Reason == kvv1.ErrorReason_ERROR_REASON_TOO_LARGE):
		// One write spoils the batch, or all together do: halves find out. They have ids
		// of their own, and that is safe: no sending was applied, or ever will be, see
		// aboutRequest.
		left, right := t.split()
		b.land(t, 0, left, right)
		return
	}
	b.land(t, 0)
	b.fail(t, err)
}

// split makes two batches of one that was refused.
func (t *batch) split() (left, right *batch) {
	half := len(t.writes) / 2
	cut := t.writes[half-1].end
	left = &batch{created: t.created, body: t.body[:cut:cut], writes: t.writes[:half:half], sends: 1}
	right = &batch{created: t.created, body: t.body[cut:], sends: 1}
	for _, w := range t.writes[half:] {
		w.end -= cut
		right.writes = append(right.writes, w)
	}
	return left, right
}

var errShortAnswer = errors.New("the answer to a batch has another number of results than it had writes")

// answered tells every caller of a batch its result.
func (b *Batcher) answered(t *batch, a *answer) {
	b.tell()
	told := 0
	err := a.results(b.client.observe, func(result []byte) error {
		if told == len(t.writes) {
			return errShortAnswer
		}
		t.writes[told].kind.complete(result)
		told++
		return nil
	})
	if err == nil && told < len(t.writes) {
		err = errShortAnswer
	}
	if err != nil {
		e := unknownBecause(&Error{Code: codes.Internal, Message: err.Error()})
		for _, w := range t.writes[told:] {
			w.kind.fail(e)
		}
	}
	b.finish(t)
}

// tell makes room for what callbacks write, until finish.
func (b *Batcher) tell() {
	b.mu.Lock()
	b.telling++
	b.mu.Unlock()
}

func (b *Batcher) fail(t *batch, err error) {
	b.tell()
	for _, w := range t.writes {
		w.kind.fail(err)
	}
	b.finish(t)
}

// finish forgets a batch whose callers were all told.
func (b *Batcher) finish(t *batch) {
	b.mu.Lock()
	b.telling--
	b.pending -= len(t.writes)
	if b.pending == 0 && b.turns.idle != nil {
		close(b.turns.idle)
		b.turns.idle = nil
	}
	ending := b.closed && b.pending == 0
	b.mu.Unlock()
	if ending {
		b.signal()
	}
	// Of a batch that was sent twice, the transport may still hold the bytes for
	// the stream that was given up: only an answered single sending is surely over.
	if t.sends == 1 && !t.unknown && cap(t.writes) <= maxBatchWrites && cap(t.body) <= 2*maxBatchBytes {
		clear(t.writes)
		*t = batch{body: t.body[:0], writes: t.writes[:0]}
		batches.Put(t)
	}
}

// complete tells the caller the result of its write.
func (k *completion) complete(encoded []byte) {
	if k.result == nil {
		if revision, ok := onlyRevision(encoded); ok {
			k.tell(revision, nil)
			return
		}
	}
	result := &kvv1.WriteResult{}
	if err := proto.Unmarshal(encoded, result); err != nil {
		k.fail(unknownBecause(&Error{Code: codes.Internal, Message: err.Error()}))
		return
	}
	switch refusal := result.GetError(); {
	case refusal != nil:
		k.fail(fromMessage(refusal))
	case k.result != nil && result.GetCut():
		k.result(result, resultCut())
	case k.result != nil:
		k.result(result, nil)
	default:
		k.tell(result.GetRevision(), nil)
	}
}

func (k *completion) fail(err error) {
	if k.result != nil {
		k.result(nil, err)
		return
	}
	k.tell(0, err)
}

func (k *completion) tell(revision int64, err error) {
	if k.put != nil {
		k.put(revision, err)
		return
	}
	k.wait <- putOutcome{revision, err}
}
