package client

import "testing"

// Of two options for the same thing the later one counts, and a call without any
// allocates nothing for them.
func TestOptions(t *testing.T) {
	got := with[readOptions]([]ReadOption{Limit(1), LocalRead(), Limit(2), Reverse()})
	if want := (readOptions{limit: 2, local: true, reverse: true}); got != want {
		t.Errorf("%+v", got)
	}
	if n := testing.AllocsPerRun(100, func() { _ = with[writeOptions]([]WriteOption(nil)) }); n != 0 {
		t.Errorf("%v allocations without options", n)
	}
}
