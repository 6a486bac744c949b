package workload

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
)

const (
	// patience is how long a session repeats a write before it gives up.
	patience = 8 * time.Second
	// kept is how many of its writes a session keeps to repeat them late.
	kept = 32
)

// session is one client that speaks the bare API. For one goroutine.
type session struct {
	client   int
	rng      *rand.Rand
	recorder *history.Recorder
	conns    *conns
	library  *library // Not nil: instead of the bare API.

	id       []byte
	sequence uint64
	seen     int64 // The highest revision in any answer.
	written  int   // Values are unique.

	cache map[string]history.KV // What it last saw of a key.
	past  []past
}

// past is a write that was acknowledged.
type past struct {
	op      *history.Op
	request call
}

func (w *Workload) newSession(client int) (*session, error) {
	to, err := w.connect()
	if err != nil {
		return nil, err
	}
	return &session{
		client:   client,
		rng:      rand.New(rand.NewPCG(w.Seed, uint64(client))),
		recorder: w.Recorder,
		conns:    to,
		id:       binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, w.Seed), uint64(client)),
		cache:    map[string]history.KV{},
	}, nil
}

func (s *session) close() { s.conns.close() }

func (s *session) conn() *grpc.ClientConn { return s.conns.all[s.conns.pick(s.rng)] }

// value is one that nobody else ever writes.
func (s *session) value() string {
	s.written++
	return "c" + strconv.Itoa(s.client) + "-" + strconv.Itoa(s.written)
}

func (s *session) requestID() *kvv1.RequestId {
	s.sequence++
	return &kvv1.RequestId{ClientId: s.id, Sequence: s.sequence, KnownRevision: s.seen}
}

// timeout bounds one attempt: a short one gives up on what is merely slow, so that
// the same request is under way twice.
func (s *session) timeout() time.Duration {
	return 200*time.Millisecond + time.Duration(s.rng.Int64N(int64(1800*time.Millisecond)))
}

// verdict is what an error says about a write.
type verdict int

const (
	unknown   verdict = iota // It may have been applied.
	notNow                   // It was not applied; another attempt may do.
	never                    // It was not applied and will not be.
	forgotten                // Its request id is not known any more.
)

// reasonOf takes the typed reason out of an error.
func reasonOf(err error) (kvv1.ErrorReason, map[string]string) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "baton" {
			return kvv1.ErrorReason(kvv1.ErrorReason_value["ERROR_REASON_"+info.Reason]), info.Metadata
		}
	}
	return 0, nil
}

func judge(err error) verdict {
	reason, _ := reasonOf(err)
	switch reason {
	case kvv1.ErrorReason_ERROR_REASON_NO_MASTER, kvv1.ErrorReason_ERROR_REASON_OVERLOADED,
		kvv1.ErrorReason_ERROR_REASON_NOT_READY, kvv1.ErrorReason_ERROR_REASON_NO_SPACE,
		kvv1.ErrorReason_ERROR_REASON_TOO_MANY:
		return notNow
	case kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST, kvv1.ErrorReason_ERROR_REASON_TOO_LARGE,
		kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND, kvv1.ErrorReason_ERROR_REASON_LEASE_EXISTS,
		kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND:
		return never
	case kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED:
		return forgotten
	}
	return unknown
}

// attempt is what one attempt of an op came to.
type attempt struct {
	answer history.Answer
	err    error
}

// write runs an op that writes. With an id it is repeated until it is answered,
// without one until it may have been applied.
func (s *session) write(ctx context.Context, op *history.Op) {
	if s.library != nil {
		s.writeByLibrary(ctx, op)
		return
	}
	op.Client = s.client
	withID := s.rng.IntN(8) > 0
	var id *kvv1.RequestId
	if withID {
		id = s.requestID()
	}
	request := writeRequest(op, id, s.rng)
	hedged := withID && s.rng.IntN(12) == 0
	s.recorder.Begin(op)
	deadline := time.Now().Add(patience)
	doubt := false
	for {
		op.Attempts++
		first, others := s.send(ctx, request, hedged)
		if first.err == nil {
			op.Answer, op.Outcome, op.Repeats = first.answer, history.OK, others
			break
		}
		op.Error = first.err.Error()
		v := judge(first.err)
		doubt = doubt || v == unknown || hedged
		if v == never || v == forgotten || doubt && !withID || time.Now().After(deadline) || ctx.Err() != nil {
			if !doubt && v != forgotten {
				op.Outcome = history.Refused
			}
			break
		}
		_ = Pause(ctx, time.Duration(s.rng.Int64N(int64(50*time.Millisecond))))
	}
	s.recorder.End(op)
	s.learn(op)
	if withID && op.Changing() && len(s.past) < kept {
		s.past = append(s.past, past{op, request})
	}
}

// call is one request, ready to be sent to any pod.
type call func(ctx context.Context, conn *grpc.ClientConn) (history.Answer, error)

// send sends a request to one pod, or to two at one time: then the answer is
// the first good one, and the other one is a repetition.
func (s *session) send(ctx context.Context, request call, hedged bool) (attempt, []history.Answer) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	if !hedged {
		answer, err := request(ctx, s.conn())
		return attempt{answer, err}, nil
	}
	results := make(chan attempt, 2)
	for range 2 {
		conn := s.conn()
		go func() {
			answer, err := request(ctx, conn)
			results <- attempt{answer, err}
		}()
	}
	a, b := <-results, <-results
	switch {
	case a.err == nil && b.err == nil:
		return a, []history.Answer{b.answer}
	case a.err == nil:
		return a, nil
	case b.err == nil:
		return b, nil
	}
	return attempt{err: errors.Join(a.err, b.err)}, nil
}

// repeat sends a write again that was acknowledged long ago.
func (s *session) repeat(ctx context.Context) {
	if len(s.past) == 0 {
		return
	}
	i := s.rng.IntN(len(s.past))
	old := s.past[i]
	s.past = append(s.past[:i], s.past[i+1:]...)
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	answer, err := old.request(ctx, s.conn())
	if err == nil {
		answer.KVs = nil
		old.op.Repeats = append(old.op.Repeats, answer)
	}
}

// read runs an op that only reads, once.
func (s *session) read(ctx context.Context, op *history.Op, scan bool) bool {
	op.Client = s.client
	s.recorder.Begin(op)
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	op.Attempts = 1
	request := sendRange(op.Read)
	switch {
	case s.library != nil:
		request = func(ctx context.Context, _ *grpc.ClientConn) (history.Answer, error) {
			return s.readByLibrary(ctx, op.Read, scan)
		}
	case scan:
		request = sendScan(op.Read)
	}
	answer, err := request(ctx, s.conn())
	if err == nil {
		op.Answer, op.Outcome = answer, history.OK
	} else {
		op.Error = err.Error()
	}
	s.recorder.End(op)
	s.learn(op)
	return err == nil
}

// learn remembers what an answer said.
func (s *session) learn(op *history.Op) {
	if op.Outcome != history.OK {
		return
	}
	s.seen = max(s.seen, op.Revision)
	if op.Read != nil && op.Read.At == 0 {
		delete(s.cache, op.Read.Key)
		for _, kv := range op.KVs {
			s.cache[kv.Key] = kv
		}
	}
	if !op.Changing() {
		return
	}
	for _, w := range op.Writes {
		if w.Delete {
			delete(s.cache, w.Key)
		} else {
			s.cache[w.Key] = history.KV{Key: w.Key, Value: w.Value, Mod: op.Revision}
		}
	}
}
