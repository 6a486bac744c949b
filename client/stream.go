package client

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
)

// errHangs ended a stream on which nothing came.
var errHangs = errors.New("the pod hangs")

// watchdog ends a stream on which nothing comes any more: a pod that hangs
// keeps its connection open.
type watchdog struct {
	timer   *time.Timer
	timeout time.Duration
}

// resume starts the wait for the next message again.
func (w *watchdog) resume() { w.timer.Reset(w.timeout) }

// pause stops it while the caller is busy with a message.
func (w *watchdog) pause() { w.timer.Stop() }

// stream runs a server stream until it is complete, and again on another pod
// while it only broke. run returns nil when there is no more to do; it keeps
// where to go on. Only for streams that change nothing.
func (c *Client) stream(ctx context.Context, w want, run func(context.Context, *grpc.ClientConn, *watchdog) error) error {
	var backoff pause
	var p *pod
	var last *Error
	for {
		if err := c.stopped(ctx, last, false); err != nil {
			return err
		}
		p = c.pods.pick(w, p)
		started := time.Now()
		timeout := timeoutOf(2*c.options.AttemptTimeout, backoff.attempt)
		e, hung := c.streamOnce(ctx, p, timeout, run)
		if e == nil {
			return nil
		}
		if ctx.Err() != nil || c.ctx.Err() != nil {
			continue
		}
		if e.outcome() == final {
			return e
		}
		if hung {
			p.avoid(avoidHung)
		}
		c.pods.failed(p, e)
		last = e
		if time.Since(started) > timeout {
			backoff = pause{} // it worked for a while
		}
		backoff.wait(ctx, e)
	}
}

// streamOnce is one attempt on one pod; hung says that the watchdog ended it.
func (c *Client) streamOnce(ctx context.Context, p *pod, timeout time.Duration, run func(context.Context, *grpc.ClientConn, *watchdog) error) (e *Error, hung bool) {
	if e := p.connect(ctx, c.options.DialTimeout); e != nil {
		return e, false
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := &watchdog{timeout: timeout}
	alive.timer = time.AfterFunc(timeout, func() { cancel(errHangs) })
	defer alive.timer.Stop()
	if err := run(ctx, p.conn, alive); err != nil {
		return fromRPC(err), errors.Is(context.Cause(ctx), errHangs)
	}
	return nil, false
}
