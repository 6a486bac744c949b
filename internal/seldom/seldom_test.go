package seldom

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e Events
		for _, step := range []struct {
			after  time.Duration
			kind   string
			unsaid int
			due    bool
		}{
			{0, "a", 0, true},
			{0, "a", 0, false},
			{0, "b", 0, true},
			{every - 1, "a", 0, false},
			{1, "a", 2, true},
			{every, "a", 0, true},
			{0, "b", 0, true},
		} {
			time.Sleep(step.after)
			if unsaid, due := e.Due(step.kind); unsaid != step.unsaid || due != step.due {
				t.Errorf("%+v: %d, %t", step, unsaid, due)
			}
		}
	})
}
