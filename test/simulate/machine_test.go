package simulate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
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
			s := newSimulation(Options{Seed: 1, Dir: t.TempDir(), Start: func(ctx context.Context, e Environment) error {
				<-ctx.Done()
				return errors.Join(os.MkdirAll(e.Dir, 0o700), tc.err)
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

// A pod whose disk hangs ends in time, and leaves its database open: the next one
// does not find it locked. (Seed 160.)
func TestWhatAPodLeavesOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var volumes []string
		s := newSimulation(Options{Seed: 1, Dir: t.TempDir(), Start: func(ctx context.Context, e Environment) error {
			volumes = append(volumes, e.Dir)
			<-ctx.Done()
			return errors.Join(os.MkdirAll(e.Dir, 0o700), os.WriteFile(filepath.Join(e.Dir, "data"), nil, 0o600))
		}})
		m := s.pods[0]
		for range 2 {
			s.lock()
			m.run()
			s.unlock()
			s.controller.stop(m)
		}
		if _, err := os.Stat(filepath.Join(m.volume, "data")); err != nil || volumes[0] == volumes[1] {
			t.Errorf("the volumes %v: %v", volumes, err)
		}
		s.end()
	})
}
