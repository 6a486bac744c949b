package quota

import (
	"context"
	"sync"
)

// Turns lets some do what takes time and memory, and the others wait: the callers take
// turns, however many wait for one of them. All methods may be called by any goroutine.
type Turns struct {
	mu      sync.Mutex // guards the fields below
	free    int
	waiting map[string][]*waiter
	order   []string // The callers that have waiters, the next one first.
}

// waiter waits for a turn.
type waiter struct {
	comes chan struct{} // closed when it has come
	gone  bool
}

// NewTurns lets so many have a turn at once.
func NewTurns(atOnce int) *Turns {
	return &Turns{free: atOnce, waiting: map[string][]*waiter{}}
}

// Begin waits for a turn of a caller, which ends with End, or for the end of ctx.
func (t *Turns) Begin(ctx context.Context, who string) error {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	w := &waiter{comes: make(chan struct{})}
	if len(t.waiting[who]) == 0 {
		t.order = append(t.order, who)
	}
	t.waiting[who] = append(t.waiting[who], w)
	t.mu.Unlock()
	select {
	case <-w.comes:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-w.comes: // Just now.
		t.end()
	default:
		w.gone = true
	}
	return context.Cause(ctx)
}

// End ends a turn.
func (t *Turns) End() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end()
}

// end gives the turn to the next one.
func (t *Turns) end() {
	for len(t.order) > 0 {
		who := t.order[0]
		first := t.waiting[who][0]
		t.order = t.order[1:]
		if t.waiting[who] = t.waiting[who][1:]; len(t.waiting[who]) > 0 {
			t.order = append(t.order, who)
		} else {
			delete(t.waiting, who)
		}
		if !first.gone {
			close(first.comes)
			return
		}
	}
	t.free++
}
