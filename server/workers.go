package server

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
)

// streamWorkers answers the messages of a two-way stream, many at a time and in any
// order. The method's goroutine hands each message to a worker, and starts another
// when all are busy. So a stream has as many workers as messages in flight, up to a
// limit; beyond that it reads no more, and flow control slows the sender.
type streamWorkers[Request, Response any] struct {
	both  grpc.BidiStreamingServer[Request, Response]
	limit int
	// receivers is the group of the goroutine that receives.
	receivers *sync.WaitGroup
	// answer gives the answer to one message; an error ends the stream.
	answer func(ctx context.Context, req *Request) (*Response, error)

	todo    chan *Request
	workers int
	ended   sync.WaitGroup
	failed  chan struct{}

	sending sync.Mutex // One Send at a time; guards err.
	err     error      // The first one of answer or Send; nothing is sent after it.
}

// run returns when the client has no more to say, when the stream or ctx ends, or
// when a message fails. Before that it answers what it has begun.
func (p *streamWorkers[Request, Response]) run(ctx context.Context) error {
	p.todo, p.failed = make(chan *Request), make(chan struct{})
	requests, received := make(chan *Request), make(chan error, 1)
	p.receivers.Go(func() { p.receive(ctx, requests, received) })
	err := p.dispatch(ctx, requests, received)
	close(p.todo)
	p.ended.Wait()
	if p.err != nil {
		return p.err
	}
	return err
}

// receive runs in a goroutine of its own: only the end of the method ends a Recv, so
// run could not return when the pod stops. It outlives run by a moment.
func (p *streamWorkers[Request, Response]) receive(ctx context.Context, requests chan<- *Request, received chan<- error) {
	for {
		req, err := p.both.Recv()
		if err != nil {
			received <- err
			return
		}
		select {
		case requests <- req:
		case <-ctx.Done():
			return
		}
	}
}

func (p *streamWorkers[Request, Response]) dispatch(ctx context.Context, requests <-chan *Request, received <-chan error) error {
	for {
		select {
		case req := <-requests:
			p.hand(req)
		case err := <-received:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-p.failed:
			return nil // run returns p.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hand gives a message to a free worker, or to a new one.
func (p *streamWorkers[Request, Response]) hand(req *Request) {
	if p.workers < p.limit {
		select {
		case p.todo <- req:
		default:
			p.workers++
			p.ended.Add(1)
			go p.work(req)
		}
		return
	}
	p.todo <- req
}

func (p *streamWorkers[Request, Response]) work(req *Request) {
	defer p.ended.Done()
	for ok := true; ok; req, ok = <-p.todo {
		p.handle(req)
	}
}

// handle finishes what was begun even when the pod stops: it runs under the client's
// own context.
func (p *streamWorkers[Request, Response]) handle(req *Request) {
	ctx, cancel := context.WithTimeout(clientContext(p.both.Context()), defaultDeadline)
	response, err := p.answer(ctx, req)
	cancel()
	p.sending.Lock()
	defer p.sending.Unlock()
	if p.err != nil {
		return
	}
	if err == nil {
		err = p.both.Send(response)
	}
	if err != nil {
		p.err = err
		close(p.failed)
	}
}
