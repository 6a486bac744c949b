package server

import (
	"context"
	"log/slog"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// compactor forgets old history while this pod is the master. It remembers
// which revision was the newest at which moment: a new master begins without
// that memory, so history may be kept for one age longer, and never shorter.
type compactor struct {
	core    *core
	store   *store.Store
	elapsed func() time.Duration // Of the monotonic clock.
	samples []sample             // Oldest first.
}

// sample: at this moment this revision was the newest.
type sample struct {
	at       time.Duration
	revision int64
}

// compactionSteps is how often within the age the compactor looks: history is
// kept for up to one step longer than the age.
const compactionSteps = 30

const (
	// minCompactionStep keeps short ages, for tests, from spinning.
	minCompactionStep = 100 * time.Millisecond
	// maxCompactionStep bounds by how much the count of revisions is exceeded.
	maxCompactionStep = 10 * time.Second
)

// compactionTimeout bounds one proposal; the next step tries again.
const compactionTimeout = 30 * time.Second

func newCompactor(c *core, st *store.Store) *compactor {
	start := time.Now()
	return &compactor{core: c, store: st, elapsed: func() time.Duration { return time.Since(start) }}
}

func (c *compactor) run(ctx context.Context) {
	age, revisions := c.core.options.KeepAge, c.core.options.KeepRevisions
	if age <= 0 && revisions <= 0 {
		return
	}
	step := maxCompactionStep
	if age > 0 {
		step = min(max(age/compactionSteps, minCompactionStep), maxCompactionStep)
	}
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		if oldest := c.due(c.store.Status().Revision); oldest > c.store.Status().Compacted {
			c.compact(ctx, oldest)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// due takes the newest revision and returns the oldest that must be kept.
func (c *compactor) due(newest int64) int64 {
	now, oldest := c.elapsed(), int64(0)
	if age := c.core.options.KeepAge; age > 0 {
		c.samples = append(c.samples, sample{at: now, revision: newest})
		for len(c.samples) > 1 && c.samples[1].at <= now-age {
			c.samples = c.samples[1:]
		}
		if c.samples[0].at <= now-age {
			oldest = c.samples[0].revision
		}
	}
	if keep := c.core.options.KeepRevisions; keep > 0 {
		oldest = max(oldest, newest-keep)
	}
	return oldest
}

func (c *compactor) compact(ctx context.Context, oldest int64) {
	ctx, cancel := context.WithTimeout(ctx, compactionTimeout)
	defer cancel()
	command := &kvv1.Command{Command: &kvv1.Command_Compact{Compact: &kvv1.CompactRequest{Revision: oldest}}}
	if err := c.core.proposeAsMaster(ctx, command); err != nil && ctx.Err() == nil {
		c.core.options.Logger.Warn("could not compact; it is tried again",
			slog.Int64("revision", oldest), slog.Any("error", err))
	}
}
