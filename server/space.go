package server

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// space refuses writes before a volume is full. Every pod's volume counts: each
// entry of the log is written on all of them, and a pod that runs out of space
// ends. If followers ran full one after the other, the cluster would lose its
// quorum, and with it the deletes and the compaction that free space.
type space struct {
	// low is true when this pod's volume is nearly full.
	low atomic.Bool
	// full is the error that refuses writes; nil if they are taken.
	full atomic.Pointer[refusal.Error]
}

// Space is how much room a volume has, in bytes.
type Space struct {
	Free, Total uint64
}

// reserve is what must stay free on a volume of this size.
func (s Space) reserve() uint64 {
	return min(reserveBytes, s.Total/reserveFraction)
}

// Usable is what writes can still take, in bytes.
func (s Space) Usable() uint64 { return s.Free - min(s.Free, s.reserve()) }

// nearlyFull asks for more space to come back than to go, so that it does not flap.
func (s Space) nearlyFull(already bool) bool {
	if already {
		return s.Free < s.reserve()+s.reserve()/reserveFraction
	}
	return s.Free < s.reserve()
}

// watchSpace looks at this pod's volume, and at what other pods say of theirs, until
// ctx ends.
func (c *core) watchSpace(ctx context.Context) {
	tick := time.NewTicker(spaceInterval)
	defer tick.Stop()
	for {
		c.lookAtSpace()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (c *core) lookAtSpace() {
	logger, was := c.options.Logger, c.space.low.Load()
	low := was
	if now, err := c.options.Space(); err == nil && now.Total > 0 {
		if low = now.nearlyFull(was); low && !was {
			logger.Error("the volume is nearly full: writes are refused until space is freed; "+
				"delete keys, compact, or make the volume larger",
				slog.Uint64("free_bytes", now.Free), slog.Uint64("reserve_bytes", now.reserve()))
		} else if was && !low {
			logger.Info("the volume has space again", slog.Uint64("free_bytes", now.Free))
		}
	}
	defer c.space.low.Store(low) // Once writes are refused: whoever sees the alarm may count on that.
	pods := c.peerStatuses.alarmed(alarmNoSpace)
	if low {
		pods = append(pods, c.options.Name)
	}
	if len(pods) == 0 {
		c.space.full.Store(nil)
		c.metrics.full.Set(0)
		return
	}
	slices.Sort(pods)
	names := strings.Join(pods, ", ")
	c.metrics.full.Set(1)
	c.space.full.Store(&refusal.Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_NO_SPACE,
		Message:  fmt.Sprintf("the volume of %s is nearly full: only deletes, revocations and compaction are accepted", names),
		Metadata: map[string]string{"pods": names},
	})
}
