package masterstream

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Stream is what gRPC makes of a two-way stream.
type Stream[Request, Response any] interface {
	Send(*Request) error
	Recv() (*Response, error)
}

// Calls are what a session carries. Every call that Next gives is ended once, by
// Answer, Unsent or Lost.
type Calls[Call, Request, Response any] interface {
	// Next waits for calls to send and appends them to into. It returns none when
	// ctx ends or nothing more is to be sent over this stream.
	Next(ctx context.Context, into []Call) []Call
	// Request is what to send. The answer may come before it is sent.
	Request(Call) *Request

	// Add notes a call that is about to be sent, Remove forgets it. Match returns
	// the call that a response answers, and forgets it. Rest returns those left.
	// The session calls these four one at a time.
	Add(Call)
	Remove(Call)
	Match(*Response) (Call, bool)
	Rest() []Call

	Answer(Call, *Response)
	// Unsent ends a call that certainly did not reach the master.
	Unsent(Call)
	// Lost ends a call that may have reached it.
	Lost(Call, error)
}

// ErrSilent says that a master did not answer in time.
var ErrSilent = errors.New("the master does not answer")

// Session is one stream to one master.
type Session[Call, Request, Response any] struct {
	Calls  Calls[Call, Request, Response]
	Stream Stream[Request, Response]
	// Cancel ends the stream.
	Cancel context.CancelFunc
	// Linger is how long answers are waited for once nothing more is sent.
	Linger time.Duration
	// Silence is how long answers may be owed with none coming, at least, and twice
	// that at most; then the stream is dead. 0: for as long as gRPC takes it for alive.
	Silence time.Duration

	mu      sync.Mutex // guards the fields below, and those four methods of Calls
	owed    int
	heard   bool // An answer came, or nothing was owed, since the last look.
	ending  bool
	err     error         // Why the stream is broken.
	drained chan struct{} // Closed when nothing more is sent, and nothing is owed.
}

// Run sends until ctx or the stream ends, until replaced is closed, or until Next
// gives no more. What it leaves running, in the owner's group, ends after Linger
// at the latest: by then all is answered or lost.
func (s *Session[Call, Request, Response]) Run(ctx context.Context, replaced <-chan struct{}, group *sync.WaitGroup) {
	s.drained, s.heard = make(chan struct{}), true
	sending, stop := context.WithCancel(ctx)
	broken, sent := make(chan struct{}), make(chan struct{})
	group.Go(func() {
		defer close(broken)
		defer stop()
		s.receive()
	})
	group.Go(func() {
		select {
		case <-replaced:
			stop()
		case <-sending.Done():
		}
		s.endSend(sent)
	})
	if s.Silence > 0 {
		group.Go(func() { s.listen(broken) })
	}
	s.send(sending)
	close(sent)
	stop()
	group.Go(func() { s.end(ctx, broken) })
}

func (s *Session[Call, Request, Response]) send(ctx context.Context) {
	var burst []Call
	for {
		if burst = s.Calls.Next(ctx, burst[:0]); len(burst) == 0 {
			return
		}
		s.mu.Lock()
		for _, call := range burst {
			s.Calls.Add(call)
		}
		s.heard = s.heard || s.owed == 0
		s.owed += len(burst)
		s.mu.Unlock()
		for i, call := range burst {
			if err := s.Stream.Send(s.Calls.Request(call)); err != nil {
				s.unsent(burst[i+1:])
				return
			}
		}
	}
}

// endSend ends a Send that is not over by the time that answers are not waited for
// any more: a master that hangs takes no more than there is room for on the way.
func (s *Session[Call, Request, Response]) endSend(sent <-chan struct{}) {
	linger := time.NewTimer(s.Linger)
	defer linger.Stop()
	select {
	case <-sent:
	case <-linger.C:
		s.Cancel()
	}
}

func (s *Session[Call, Request, Response]) unsent(calls []Call) {
	s.mu.Lock()
	for _, call := range calls {
		s.Calls.Remove(call)
	}
	s.owed -= len(calls)
	s.mu.Unlock()
	for _, call := range calls {
		s.Calls.Unsent(call)
	}
}

func (s *Session[Call, Request, Response]) receive() {
	for {
		response, err := s.Stream.Recv()
		if err != nil {
			s.fail(err)
			return
		}
		s.mu.Lock()
		call, known := s.Calls.Match(response)
		if known {
			s.owed--
			s.heard = true
		}
		if s.ending && known && s.owed == 0 {
			close(s.drained)
		}
		s.mu.Unlock()
		if known { // Unless the peer has invented it.
			s.Calls.Answer(call, response)
		}
	}
}

// fail notes why the stream broke, if nothing did before.
func (s *Session[Call, Request, Response]) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// listen ends a stream that owes answers and says nothing.
func (s *Session[Call, Request, Response]) listen(broken <-chan struct{}) {
	tick := time.NewTicker(s.Silence)
	defer tick.Stop()
	for {
		select {
		case <-broken:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		silent := s.owed > 0 && !s.heard
		s.heard = false
		s.mu.Unlock()
		if silent {
			s.fail(ErrSilent)
			s.Cancel()
		}
	}
}

// end waits for the answers that are still to come. A master that hands over
// answers all that it has; they must not be lost to the news of the next one.
func (s *Session[Call, Request, Response]) end(ctx context.Context, broken <-chan struct{}) {
	s.mu.Lock()
	s.ending = true
	if s.owed == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
	linger := time.NewTimer(s.Linger)
	defer linger.Stop()
	select {
	case <-s.drained:
	case <-broken:
	case <-linger.C:
	case <-ctx.Done():
	}
	s.Cancel()
	<-broken
	for _, call := range s.Calls.Rest() {
		s.Calls.Lost(call, s.err)
	}
}
