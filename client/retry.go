package client

import (
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 50 * time.Millisecond
	// A full queue needs longer to empty than a master to be elected.
	overloadedBackoff = 100 * time.Millisecond
	// maxRetryAfter bounds what a pod may say, so that a rate that was raised is noticed.
	maxRetryAfter = 10 * time.Second
	// lastMoment: a write that was only refused so far is not sent once more when
	// so little time is left. Cut off with that attempt on its way, all that could
	// be said of it is that its outcome is unknown.
	lastMoment = 20 * time.Millisecond
	// shortestAttempt: with less time than this in all there is one attempt.
	shortestAttempt = 100 * time.Millisecond
	// maxAttemptTimeout bounds the doubling of Options.AttemptTimeout.
	maxAttemptTimeout = 16 * time.Second
)

// pause is the backoff between attempts, for calls and streams alike.
type pause struct {
	attempt int
}

// wait sleeps before the next attempt, or until ctx ends.
func (b *pause) wait(ctx context.Context, last *Error) {
	d := min(minBackoff<<min(b.attempt, 10), maxBackoff)
	if last.Reason == kvv1.ErrorReason_ERROR_REASON_OVERLOADED {
		d = overloadedBackoff
	}
	d = d/2 + rand.N(d)
	if told := last.retryAfter(); told > 0 { // Each who asks is told another time.
		d = told + rand.N(told/4+time.Millisecond)
	}
	b.attempt++
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// retryAfter is how long the pod has said to wait; 0: it has not.
func (e *Error) retryAfter() time.Duration {
	ms, err := strconv.ParseInt(e.Metadata["retry_after_ms"], 10, 64)
	if err != nil || ms < 0 {
		return 0
	}
	return min(time.Duration(ms)*time.Millisecond, maxRetryAfter)
}

// timeoutOf doubles the base timeout with each attempt.
func timeoutOf(base time.Duration, attempt int) time.Duration {
	return min(base<<min(attempt, 10), max(base, maxAttemptTimeout))
}

// call is one unary request.
type call struct {
	want want
	// write: an attempt without an answer may have been applied.
	write bool
	// id makes repeating a write safe; nil for reads, and for writes that change
	// nothing when they are repeated.
	id *kvv1.RequestId
	// once: not repeated after an attempt that may have been applied.
	once bool
	send func(ctx context.Context, conn *grpc.ClientConn) (*kvv1.ResponseHeader, error)
}

// attempts is a call on its way.
type attempts struct {
	call    call
	client  *Client
	last    *Error
	unknown bool
}

// do runs a call until it is answered or refused for good, or ctx ends.
func (c *Client) do(ctx context.Context, r call) error {
	a := attempts{call: r, client: c}
	var backoff pause
	var p *pod
	for {
		if err := c.stopped(ctx, a.last, a.unknown); err != nil {
			return err
		}
		deadline, ok := ctx.Deadline()
		if ok && r.write && !a.unknown && a.last != nil && time.Until(deadline) < lastMoment {
			return ended(ctx, a.last, false)
		}
		p = c.pods.pick(r.want, p)
		timeout := timeoutOf(c.options.AttemptTimeout, backoff.attempt)
		if r.once {
			timeout = maxAttemptTimeout // there is no second attempt to hurry to
		} else if ok {
			// Time is left for another pod should this one hang.
			timeout = min(timeout, max(time.Until(deadline)/2, shortestAttempt))
		}
		e := c.try(ctx, p, r.send, timeout)
		if e == nil {
			return nil
		}
		if ctx.Err() == nil {
			a.last = e
			c.pods.failed(p, e)
		}
		if e.Is(ErrRateExceeded) {
			p = nil // Another pod is no way around it.
		}
		if err := a.judge(e); err != nil {
			return err
		}
		backoff.wait(ctx, e)
	}
}

// stopped is not nil when the caller's context or the client has ended.
func (c *Client) stopped(ctx context.Context, last *Error, unknown bool) error {
	if ctx.Err() != nil {
		return ended(ctx, last, unknown)
	}
	if c.ctx.Err() != nil {
		if unknown {
			return ended(c.ctx, last, true)
		}
		return closedError()
	}
	return nil
}

// try is one attempt on one pod.
func (c *Client) try(ctx context.Context, p *pod, send func(context.Context, *grpc.ClientConn) (*kvv1.ResponseHeader, error), timeout time.Duration) *Error {
	if e := p.connect(ctx, c.options.DialTimeout); e != nil {
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	header, err := send(ctx, p.conn)
	if err != nil {
		e := fromRPC(err)
		if e.Code == codes.DeadlineExceeded && e.Reason == kvv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
			e.Message = p.address + " did not answer within " + timeout.Round(time.Millisecond).String()
		}
		return e
	}
	c.observe(header.GetRevision())
	return nil
}

// judge returns what the caller gets after a failed attempt, nil to go on.
func (a *attempts) judge(e *Error) error {
	if a.call.id != nil && e.Reason == kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED {
		if a.unknown {
			return forgotten(e)
		}
		// Every attempt so far was refused, so under another id it is not a second
		// application.
		a.client.renew(a.call.id, e)
		return nil
	}
	switch e.outcome() {
	case notApplied:
		return nil
	case mayBeApplied:
		if !a.call.write {
			return nil
		}
		a.unknown = true
		if a.call.once {
			return unknownBecause(e)
		}
		return nil
	}
	if a.unknown && !e.aboutRequest() {
		return unknownBecause(e)
	}
	return e
}

// renew gives a write a new request id, with a known revision from the refusal
// of the old one.
func (c *Client) renew(id *kvv1.RequestId, refusal *Error) {
	if revision, err := strconv.ParseInt(refusal.Metadata["revision"], 10, 64); err == nil {
		c.observe(revision)
	}
	fresh := c.newRequestID()
	id.Sequence, id.KnownRevision = fresh.Sequence, fresh.KnownRevision
}
