package sleep

import (
	"context"
	"time"
)

// For waits for d or the end of ctx, whichever comes first. It returns false when
// ctx ended first.
func For(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
