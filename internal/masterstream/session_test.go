package masterstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// master is the other end: a stream that a test answers.
type master struct {
	ctx     context.Context
	got     chan int
	answers chan int
	refuse  bool // Send fails.
}

func (m *master) Send(request *int) error {
	if m.refuse {
		return io.EOF
	}
	m.got <- *request
	return nil
}

func (m *master) Recv() (*int, error) {
	select {
	case n, more := <-m.answers:
		if !more {
			return nil, io.ErrUnexpectedEOF
		}
		return &n, nil
	case <-m.ctx.Done():
		return nil, m.ctx.Err()
	}
}

// numbers are calls that are their own requests and answers.
type numbers struct {
	waiting chan int
	noted   map[int]bool

	mu   sync.Mutex // guards ends
	ends map[int]string
}

func (n *numbers) Next(ctx context.Context, into []int) []int {
	select {
	case one := <-n.waiting:
		into = append(into, one)
		for len(n.waiting) > 0 {
			into = append(into, <-n.waiting)
		}
	case <-ctx.Done():
	}
	return into
}

func (n *numbers) Request(one int) *int { return &one }
func (n *numbers) Add(one int)          { n.noted[one] = true }
func (n *numbers) Remove(one int)       { delete(n.noted, one) }
func (n *numbers) Rest() []int          { return slices.Collect(maps.Keys(n.noted)) }

func (n *numbers) Match(answer *int) (int, bool) {
	known := n.noted[*answer]
	delete(n.noted, *answer)
	return *answer, known
}

func (n *numbers) end(one int, how string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ends[one] += how
}

func (n *numbers) Answer(one int, _ *int)  { n.end(one, "answered") }
func (n *numbers) Unsent(one int)          { n.end(one, "unsent") }
func (n *numbers) Lost(one int, err error) { n.end(one, fmt.Sprintf("lost: %v", err)) }

// run runs a session with the calls 1, 2 and 3 in virtual time, and returns how
// each has ended, and how long the session took.
func run(t *testing.T, linger, silence time.Duration, act func(m *master, replace func())) (ends map[int]string, took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		m := &master{ctx: ctx, got: make(chan int, 9), answers: make(chan int)}
		n := &numbers{waiting: make(chan int, 9), noted: map[int]bool{}, ends: map[int]string{}}
		for one := 1; one <= 3; one++ {
			n.waiting <- one
		}
		s := Session[int, int, int]{Calls: n, Stream: m, Cancel: cancel, Linger: linger, Silence: silence}
		replaced := make(chan struct{})
		start := time.Now()
		var group sync.WaitGroup
		group.Go(func() { act(m, func() { close(replaced) }) })
		s.Run(ctx, replaced, &group)
		group.Wait()
		ends, took = n.ends, time.Since(start)
	})
	return ends, took
}

func expect(t *testing.T, ends map[int]string, want ...string) {
	t.Helper()
	for i, how := range want {
		if ends[i+1] != how {
			t.Errorf("call %d: %q, want %q", i+1, ends[i+1], how)
		}
	}
}

// The stream breaks: who has no answer by then may have been heard.
func TestBrokenStream(t *testing.T) {
	ends, _ := run(t, time.Second, 0, func(m *master, _ func()) {
		m.answers <- <-m.got
		m.answers <- 77 // Invented.
		m.answers <- 1  // A second time.
		close(m.answers)
	})
	lost := "lost: " + io.ErrUnexpectedEOF.Error()
	expect(t, ends, "answered", lost, lost)
}

// The master is replaced: what it still answers counts, for a while.
func TestReplacedMaster(t *testing.T) {
	ends, took := run(t, time.Second, 0, func(m *master, replace func()) {
		replace()
		time.Sleep(time.Second / 2)
		m.answers <- 2
	})
	lost := "lost: " + context.Canceled.Error()
	if expect(t, ends, lost, "answered", lost); took != time.Second {
		t.Errorf("it took %v", took)
	}
}

// With the last answer there is nothing to linger for.
func TestReplacedMasterAnswersAll(t *testing.T) {
	ends, took := run(t, time.Hour, 0, func(m *master, replace func()) {
		synctest.Wait()
		replace()
		for one := range 3 {
			m.answers <- one + 1
		}
	})
	if expect(t, ends, "answered", "answered", "answered"); took != 0 {
		t.Errorf("it took %v", took)
	}
}

func TestSilentMaster(t *testing.T) {
	ends, took := run(t, 0, time.Minute, func(m *master, _ func()) {
		time.Sleep(90 * time.Second)
		m.answers <- 1
	})
	lost := "lost: " + ErrSilent.Error()
	if expect(t, ends, "answered", lost, lost); took != 3*time.Minute {
		t.Errorf("it took %v", took)
	}
}

// What comes after a failed Send has not left; the failed one may have.
func TestFailedSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := &master{ctx: ctx, refuse: true}
		n := &numbers{waiting: make(chan int, 9), noted: map[int]bool{}, ends: map[int]string{}}
		n.waiting <- 1
		n.waiting <- 2
		s := Session[int, int, int]{Calls: n, Stream: m, Cancel: cancel}
		var group sync.WaitGroup
		s.Run(ctx, nil, &group)
		group.Wait()
		if n.ends[1] != "lost: context canceled" || n.ends[2] != "unsent" || !errors.Is(ctx.Err(), context.Canceled) {
			t.Error(n.ends)
		}
	})
}

// full is a master that takes nothing more: Send waits for as long as there is a stream.
type full struct{ *master }

func (f full) Send(*int) error {
	<-f.ctx.Done()
	return f.ctx.Err()
}

// A master that hangs may take nothing more, so that Send does not return. Once it
// is replaced, its callers wait no longer than for one that takes and answers nothing.
func TestReplacedMasterTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		m := full{&master{ctx: ctx}}
		n := &numbers{waiting: make(chan int, 9), noted: map[int]bool{}, ends: map[int]string{}}
		n.waiting <- 1
		n.waiting <- 2
		s := Session[int, int, int]{Calls: n, Stream: m, Cancel: cancel, Linger: time.Second}
		replaced := make(chan struct{})
		var group sync.WaitGroup
		start := time.Now()
		time.AfterFunc(time.Second, func() { close(replaced) })
		s.Run(ctx, replaced, &group)
		group.Wait()
		expect(t, n.ends, "lost: context canceled", "unsent")
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
