package server

import (
	"context"
	"time"

	"github.com/batondb/baton/internal/quota"
)

// rangeReads bounds what reading takes.
type rangeReads struct {
	turns *quota.Turns
	// patience is readPatience; shorter in tests.
	patience time.Duration
}

// Turn is a caller's, to read many keys: what is read is in memory until it is encoded
// or refused, whoever waits for it, so only some read at once.
type Turn struct {
	turns *quota.Turns
	who   string
	has   bool
}

// Turn waits until the caller of ctx may read a range, or count one. It fails with
// TOO_MANY when the caller leaves so much unread that what is read would be refused.
func (b *Backend) Turn(ctx context.Context, counts bool) (*Turn, error) {
	if counts {
		return b.core.turn(ctx, 0)
	}
	return b.core.turn(ctx, AnswerPartBytes)
}

// turn waits for one to read so many bytes of an answer.
func (c *core) turn(ctx context.Context, bytes int64) (*Turn, error) {
	t := &Turn{turns: c.bounds.reading.turns, who: whoCalls(ctx)}
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	if bytes > 0 {
		if err := c.bounds.answers.Room(t.who, bytes); err != nil {
			t.End()
			return nil, err
		}
	}
	return t, nil
}

func (t *Turn) begin(ctx context.Context) error {
	err := t.turns.Begin(ctx, t.who)
	t.has = err == nil
	return err
}

// Outside lets others read while send waits for the client.
func (t *Turn) Outside(ctx context.Context, send func() error) error {
	t.End()
	if err := send(); err != nil {
		return err
	}
	return t.begin(ctx)
}

// End ends the turn, if it has not ended.
func (t *Turn) End() {
	if t.has {
		t.has = false
		t.turns.End(t.who)
	}
}
