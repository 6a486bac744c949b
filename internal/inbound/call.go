package inbound

import (
	"context"
	"sync/atomic"
)

// Call counts as one from its headers until its end is written and its handler, if that
// has begun, has returned: what nobody reads is in memory, and so is what a handler
// does that nobody waits for any more.
type Call struct {
	visitor *visitor
	holds   atomic.Int32 // 1 until its end is written, and 1 between Enter and Leave.
}

func newCall(by *visitor) *Call {
	c := &Call{visitor: by}
	c.holds.Store(1)
	return c
}

type callKey struct{}

// Enter begins the work of a call, which ends with Leave. It fails when the client has
// given the call up already. Outside of a Port it returns nil.
func Enter(ctx context.Context) (*Call, error) {
	c, ok := ctx.Value(callKey{}).(*Call)
	if !ok {
		return nil, nil
	}
	for {
		holds := c.holds.Load()
		if holds == 0 {
			return nil, context.Canceled
		}
		if c.holds.CompareAndSwap(holds, holds+1) {
			return c, nil
		}
	}
}

// Leave ends the work of a call; c is what Enter gave.
func (c *Call) Leave() {
	if c != nil && c.holds.Add(-1) == 0 {
		c.visitor.end()
	}
}
