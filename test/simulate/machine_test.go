package simulate

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// A disk may hang while a pod is told to stop. (Seed 110372.)
func TestEndsWithAnError(t *testing.T) {
	for _, tc := range []struct {
		err     error
		excused bool
	}{
		{nil, true},
		{errors.New("the disk of the log hangs"), true},
		{errors.New("it has no reason"), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSimulation(Options{Seed: 1, Dir: t.TempDir(), Start: func(ctx context.Context, _ Environment) error {
				<-ctx.Done()
				return tc.err
			}})
			m := s.pods[0]
			s.lock()
			m.run()
			s.unlock()
			s.controller.stop(m)
			s.end()
			if s.violated() == tc.excused {
				t.Errorf("%v after SIGTERM: %v", tc.err, s.found)
			}
		})
	}
}
