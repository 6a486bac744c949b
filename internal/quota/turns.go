package quota

import (
	"context"
	"slices"
	"sync"
)

// Turns lets some do what takes time and memory, and the others wait: the callers take
// turns, however many wait for one of them. As of a [Quota], one may have as many as are
// left for all others. All methods may be called by any goroutine.
type Turns struct {
	mu      sync.Mutex // guards the fields below
	free    int
	has     map[string]int // Nobody is in it with 0.
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
	return &Turns{free: atOnce, has: map[string]int{}, waiting: map[string][]*waiter{}}
}

// Begin waits for a turn of a caller, which ends with End, or for the end of ctx.
func (t *Turns) Begin(ctx context.Context, who string) error {
	t.mu.Lock()
	if t.take(who) {
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
		t.end(who)
	default:
		w.gone = true
	}
	return context.Cause(ctx)
}

// take takes a turn, if the caller may have one more; t.mu is held.
func (t *Turns) take(who string) bool {
	if t.has[who]+1 > t.free {
		return false
	}
	t.free--
	t.has[who]++
	return true
}

// End ends a turn of a caller.
func (t *Turns) End(who string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end(who)
}

// end gives the turn to the next one who may have it; t.mu is held.
func (t *Turns) end(who string) {
	t.free++
	if t.has[who]--; t.has[who] == 0 {
		delete(t.has, who)
	}
	for i := 0; i < len(t.order); {
		next := t.order[i]
		first := t.waiting[next][0]
		if !first.gone && !t.take(next) {
			i++
			continue
		}
		t.order = slices.Delete(t.order, i, i+1)
		if t.waiting[next] = t.waiting[next][1:]; len(t.waiting[next]) > 0 {
			t.order = append(t.order, next)
		} else {
			delete(t.waiting, next)
		}
		if !first.gone {
			close(first.comes)
		}
	}
}
