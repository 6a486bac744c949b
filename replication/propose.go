package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// patience is how many election timeouts a call waits for a master.
	patience = 6
	// retryPause is waited when the master that is known refuses: it has not
	// noticed yet that it leads, or no more does.
	retryPause = 20 * time.Millisecond
)

// Propose puts a command into the log and returns what applying it gave. It
// works on any pod: a follower forwards to the master. A command that certainly
// was not proposed is tried again, with the next master, for about three
// seconds; then it is ErrNoMaster.
//
// The command must not be changed, not even afterwards.
func (n *Node) Propose(ctx context.Context, c *kvv1.Command) (*kvv1.Result, error) {
	e := n.engine.Load()
	if e == nil {
		return nil, ErrNotReady
	}
	if size := commandSize(c); size > MaxCommandBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, MaxCommandBytes)
	}
	var w masterWait
	for {
		v := e.views.load()
		var result *kvv1.Result
		err := errNotProposed
		switch {
		case v.leads:
			result, err = e.proposer.propose(ctx, c)
		case v.master != "":
			result, err = e.forwarder.propose(ctx, c)
		}
		if !errors.Is(err, errNotProposed) {
			return result, err
		}
		if err := w.wait(ctx, e, v); err != nil {
			return nil, err
		}
	}
}

// ProposeAsMaster is Propose for what only the master may decide, such as the
// end of a lease: it is never forwarded. A pod that was the master when it
// decided, and is no more, gets ErrNoMaster, and nothing was applied.
func (n *Node) ProposeAsMaster(ctx context.Context, c *kvv1.Command) (*kvv1.Result, error) {
	e := n.engine.Load()
	if e == nil {
		return nil, ErrNotReady
	}
	if !e.views.load().leads {
		return nil, ErrNoMaster
	}
	result, err := e.proposer.propose(ctx, c)
	if errors.Is(err, errNotProposed) {
		return nil, ErrNoMaster
	}
	return result, err
}

// masterWait is the patience of one call with the absence of a master.
type masterWait struct{ until time.Time }

// wait returns when it is time to try again.
func (w *masterWait) wait(ctx context.Context, e *engine, v *view) error {
	if w.until.IsZero() {
		w.until = time.Now().Add(patience * e.timing.Election)
	}
	left := time.Until(w.until)
	if left <= 0 {
		return fmt.Errorf("%w: none within %s", ErrNoMaster, patience*e.timing.Election)
	}
	if v.master != "" {
		left = min(left, retryPause)
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-v.changed:
	case <-t.C:
	case <-ctx.Done():
		return fmt.Errorf("%w: not applied: %w", ErrNoMaster, ctx.Err())
	case <-e.stopped:
		return ErrClosed
	}
	return nil
}
