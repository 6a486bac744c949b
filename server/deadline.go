package server

import (
	"context"
	"sync/atomic"
	"time"
)

// withDeadline bounds a unary request that came without a deadline.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultDeadline)
}

// deadlines are shared by the puts that come without one: a timer for each
// would be a twentieth of what a put costs. The first caller of a tenth of the
// deadline makes the next one, so a call gets between nine tenths of it and all.
//
// A client's cancellation does not end what is shared. A put that is under way
// cannot be called back, and is answered long before.
type deadlines struct {
	newest atomic.Pointer[sharedDeadline]
}

type sharedDeadline struct {
	ctx   context.Context
	began time.Time
}

// share returns ctx if it has a deadline.
func (d *deadlines) share(ctx context.Context) context.Context {
	if _, ok := ctx.Deadline(); ok {
		return ctx
	}
	newest, now := d.newest.Load(), time.Now()
	if newest == nil || now.Sub(newest.began) > defaultDeadline/10 {
		shared, cancel := context.WithDeadline(context.Background(), now.Add(defaultDeadline))
		context.AfterFunc(shared, cancel) // It ends by its time alone.
		newest = &sharedDeadline{shared, now}
		d.newest.Store(newest)
	}
	return newest.ctx
}
