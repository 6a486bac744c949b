package server

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// WhileRead runs what sends a stream's answers, and calls moved after each. It returns
// with an error when moved was not called for a minute, because the client does not
// read: what the call holds, such as the database's pages as they are, is then given
// back. Only the end of the method ends a Send, so run goes on for a moment.
func (b *Backend) WhileRead(ctx context.Context, run func(moved func()) error) error {
	return b.core.whileRead(ctx, run)
}

func (c *core) whileRead(ctx context.Context, run func(moved func()) error) error {
	move, ended := make(chan struct{}, 1), make(chan error, 1)
	c.outliving.Go(func() {
		ended <- run(func() {
			select {
			case move <- struct{}{}:
			default:
			}
		})
	})
	patience := time.NewTimer(c.bounds.reading.patience)
	defer patience.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-move:
			patience.Reset(c.bounds.reading.patience)
		case <-patience.C:
			return status.Error(codes.DeadlineExceeded, fmt.Sprintf("the client has read nothing for %s: it is to ask anew", c.bounds.reading.patience))
		}
	}
}
