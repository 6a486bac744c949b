package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// stopOf is a stop whose steps are noted, and take as long as the test says.
func stopOf(master, leaves bool, takes map[string]time.Duration) (s *stop, taken func() []string) {
	var mu sync.Mutex
	var steps []string
	note := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		steps = append(steps, name)
	}
	step := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			note(name)
			select {
			case <-time.After(takes[name]):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return &stop{
		logger:    slog.New(slog.DiscardHandler),
		unready:   func() { note("unready") },
		leads:     func() bool { return master },
		handOver:  func(ctx context.Context) (string, error) { return "kv-1", step("hand over")(ctx) },
		departs:   func(context.Context) bool { return leaves },
		leave:     step("leave"),
		inFlight:  func(ctx context.Context) { _ = step("in flight")(ctx) },
		closeNode: step("log"),
		// A hung disk hears of no context.
		closeStore: func() error { return step("database")(context.Background()) },
	}, func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(steps) }
}

// There is one order, and each step is taken once: also when the baton could not be
// handed over, and whatever hangs.
//
// Scenario: S23
func TestStopTakesEachStepOnce(t *testing.T) {
	for name, c := range map[string]struct {
		master, leaves bool
		takes          map[string]time.Duration
		want           []string
		within         time.Duration
	}{
		"a follower": {false, false, nil, []string{"unready", "in flight", "log", "database"}, 0},
		"the master": {true, false, nil, []string{"unready", "hand over", "in flight", "log", "database"}, 0},
		"the master leaves": {true, true, nil,
			[]string{"unready", "hand over", "leave", "in flight", "log", "database"}, 0},
		"nobody takes the baton": {true, false, map[string]time.Duration{"hand over": time.Hour},
			[]string{"unready", "hand over", "in flight", "log", "database"}, handOverLimit},
		"a hung disk": {false, false, map[string]time.Duration{"database": time.Hour},
			[]string{"unready", "in flight", "log", "database"}, closeLimit + lastMoment},
		"everything hangs": {true, true, map[string]time.Duration{
			"hand over": time.Hour, "leave": time.Hour, "in flight": time.Hour, "log": time.Hour, "database": time.Hour,
		}, []string{"unready", "hand over", "leave", "in flight", "log", "database"}, stopBudget + lastMoment},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, taken := stopOf(c.master, c.leaves, c.takes)
				began := time.Now()
				s.run()
				if took := time.Since(began); took > c.within {
					t.Errorf("it took %s, not %s", took, c.within)
				}
				if steps := taken(); !slices.Equal(steps, c.want) {
					t.Errorf("%v", steps)
				}
				time.Sleep(2 * time.Hour) // What hung ends.
			})
		})
	}
}

// A step is told when its time is over, and given up when it does not listen.
func TestWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := within(t.Context(), time.Second, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it listens, and is given up after %s", took)
		}
		deaf := make(chan struct{})
		if err := within(t.Context(), time.Second, func(context.Context) error { <-deaf; return nil }); err == nil {
			t.Error("it has ended")
		}
		if took := time.Since(began); took != 2*time.Second+lastMoment {
			t.Errorf("given up after %s", took)
		}
		close(deaf)
	})
}

// A disk that hangs holds up nobody who looks at it in the background: the stop begins,
// and is one with a budget.
//
// Scenario: S23
func TestAHungDiskDoesNotHoldUpAStop(t *testing.T) {
	s := newStatefulSet(t, 1)
	s.start("kv-0")
	s.awaitReady("kv-0")
	// Who reads a pipe to which nobody writes hangs as well.
	pipe := filepath.Join(s.volume("kv-0"), "recover.request")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	var writer *os.File
	s.eventually("the pod reads", func() (err error) {
		writer, err = os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		return err
	})
	pod := s.pods["kv-0"]
	pod.cancel()
	late := time.AfterFunc(patience, func() {
		t.Error("it does not end")
		writer.Close() //nolint:errcheck // Nothing was written.
	})
	if err := <-pod.ended; err != nil {
		t.Error(err)
	}
	late.Stop()
	// What hung ends before the directory does.
	writer.Close() //nolint:errcheck // Nothing was written.
	s.eventually("what was read is answered", func() error {
		_, err := os.Stat(filepath.Join(s.volume("kv-0"), "recover.answer"))
		return err
	})
	delete(s.pods, "kv-0")
}

// output keeps what a pod writes.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// A real pod tries to hand over once, too, whether there is a successor or not.
//
// Scenario: S23
func TestTheBatonIsHandedOverOnce(t *testing.T) {
	for name, stopped := range map[string][]string{"to the other pod": {"kv-0"}, "to nobody": {"kv-1", "kv-0"}} {
		t.Run(name, func(t *testing.T) {
			s, out := newStatefulSet(t, 2), &output{}
			c := s.config("kv-0")
			c.logLevel, c.world.stderr = "info", out
			s.startWith(c) // It founds the cluster, and leads.
			s.awaitReady("kv-0")
			s.start("kv-1")
			s.awaitReady("kv-1")
			s.awaitVoters("kv-0", "kv-0", "kv-1")
			s.stopAll(stopped...)
			attempts := regexp.MustCompile("handed the baton over|the baton .* not .*handed over").FindAllString(out.String(), -1)
			if len(attempts) != 1 {
				t.Errorf("%d attempts in:\n%s", len(attempts), out.String())
			}
		})
	}
}
