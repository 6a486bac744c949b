package quota

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// waitFor begins a turn, in a goroutine, that is noted in to when it comes; it returns once
// that waits.
func waitFor(ctx context.Context, t *testing.T, turns *Turns, who string, to chan<- string) {
	t.Helper()
	waiting := func() (n int) {
		turns.mu.Lock()
		defer turns.mu.Unlock()
		return len(turns.waiting[who])
	}
	before := waiting()
	go func() {
		if turns.Begin(ctx, who) == nil {
			to <- who
		}
	}()
	for waiting() == before {
		select {
		case <-t.Context().Done():
			t.Fatal("it does not wait")
		default:
		}
	}
}

// Whoever has many that wait does not keep others from their turn.
func TestCallersTakeTurns(t *testing.T) {
	turns, came := NewTurns(1), make(chan string, 100)
	if err := turns.Begin(t.Context(), "greedy"); err != nil {
		t.Fatal(err)
	}
	ctx, giveUp := context.WithCancel(t.Context())
	for range 3 {
		waitFor(ctx, t, turns, "given up", came)
	}
	for range 20 {
		waitFor(t.Context(), t, turns, "greedy", came)
	}
	waitFor(t.Context(), t, turns, "other", came)
	waitFor(t.Context(), t, turns, "other", came)
	giveUp()
	turns.End("greedy")
	first := []string{}
	for range 4 {
		who := <-came
		first = append(first, who)
		turns.End(who)
	}
	for _, who := range []string{"greedy", "other"} {
		n := 0
		for _, f := range first {
			if f == who {
				n++
			}
		}
		if n != 2 {
			t.Errorf("%s came %d times: %v", who, n, first)
		}
	}
}

// What is given up at the same moment as its turn comes loses no turn.
func TestTurnsAreNotLost(t *testing.T) {
	turns := NewTurns(2)
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range 500 {
				ctx, cancel := context.WithCancel(t.Context())
				if (n+i)%3 == 0 {
					go cancel()
				}
				who := string(rune('a' + n%3))
				if err := turns.Begin(ctx, who); err == nil {
					turns.End(who)
				} else if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	all.Wait()
	if turns.free != 2 || len(turns.has) != 0 || len(turns.order) != 0 || len(turns.waiting) != 0 {
		t.Errorf("%d are free, %v wait", turns.free, turns.order)
	}
}

// Whoever has turns that last leaves some to the next one; and what waits only since its
// caller had too many comes when one of these ends.
func TestOneCallerLeavesTurns(t *testing.T) {
	turns, came := NewTurns(16), make(chan string, 100)
	for range 8 {
		if err := turns.Begin(t.Context(), "greedy"); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t.Context(), t, turns, "greedy", came)
	for range 4 {
		if err := turns.Begin(t.Context(), "other"); err != nil {
			t.Fatal(err)
		}
	}
	turns.End("other")
	turns.End("greedy") // It has as many as are left.
	turns.End("greedy")
	if who := <-came; who != "greedy" {
		t.Errorf("%s came", who)
	}
}
