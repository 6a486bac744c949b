package history

import (
	"slices"
	"testing"
)

// watched is a small log, and a watch of it from revision 2 in three streams:
// the first ends in the middle of revision 4.
func watched() (*Log, *Watch) {
	all := NewWatch("all", "\x00", "\xff", 1, false)
	all.Open()
	all.Receive(message(0, false), 0)
	for _, m := range []struct {
		revision int64
		keys     []string
	}{{2, []string{"a"}}, {3, []string{"b"}}, {4, []string{"c", "d"}}, {5, []string{"e"}}, {6, []string{"z"}}, {7, []string{"f"}}} {
		all.Receive(message(m.revision, false, m.keys...), 0)
	}
	w := NewWatch("w", "a", "g", 2, false)
	w.Open()
	w.Receive(message(1, false), 0)
	w.Receive(message(2, false, "a"), 0)
	w.Receive(message(3, false, "b"), 0)
	w.Receive(message(4, true, "c"), 0)
	w.Open()
	w.Receive(message(3, false), 0)
	w.Receive(message(4, true, "c"), 0)
	w.Receive(message(4, false, "d"), 0)
	w.Receive(message(5, false, "e"), 0)
	w.Receive(message(6, false), 0)
	w.Open()
	w.Receive(message(6, false), 0)
	w.Receive(message(7, false, "f"), 0)
	return NewLog(all), w
}

func TestWatchRight(t *testing.T) {
	l, w := watched()
	if v := CheckWatch(l, w, 0); len(v) > 0 {
		t.Error(v)
	}
	if w.Through != 7 || len(w.Events) != 6 {
		t.Errorf("through %d, %d events", w.Through, len(w.Events))
	}
}

func TestWatchSeededBugs(t *testing.T) {
	for name, bug := range map[string]func(w *Watch){
		"a gap":                       func(w *Watch) { w.Events = slices.Delete(w.Events, 2, 3) },
		"a gap at the end":            func(w *Watch) { w.Events = w.Events[:5] },
		"half a revision":             func(w *Watch) { w.Events = slices.Delete(w.Events, 3, 4) },
		"a duplicate":                 func(w *Watch) { w.Events = slices.Insert(w.Events, 2, w.Events[2]) },
		"reordered":                   func(w *Watch) { w.Events[0], w.Events[1] = w.Events[1], w.Events[0] },
		"another value":               func(w *Watch) { w.Events[1].Value = "x" },
		"a wrong version":             func(w *Watch) { w.Events[1].Version++ },
		"a previous value of nothing": func(w *Watch) { w.Events[1].Prev = &KV{Key: "b", Value: "x"} },
		"no previous value":           func(w *Watch) { w.PrevKV = true; w.Events[1].Key = "a" },
		"not asked for":               func(w *Watch) { w.Events[5].Key = "z" },
		"never committed":             func(w *Watch) { w.Receive(message(8, false, "a"), 0) },
		"progress from nowhere":       func(w *Watch) { w.Receive(message(99, false), 0) },
		"a lost stream position":      func(w *Watch) { w.Open(); w.Receive(message(9, false), 0) },
		"an early COMPACTED":          func(w *Watch) { w.Compacted(3) },
		"a COMPACTED without cause":   func(w *Watch) { w.Compacted(9) },
		"progress within a revision":  func(w *Watch) { w.Receive(message(8, true, "a"), 0); w.Receive(message(8, false), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			l, w := watched()
			bug(w)
			if v := CheckWatch(l, w, 0); len(v) == 0 {
				t.Error("not seen")
			}
		})
	}
}

// A watcher that was told COMPACTED has a gap there and nowhere else.
func TestWatchCompacted(t *testing.T) {
	l, _ := watched()
	w := NewWatch("w", "a", "g", 2, false)
	w.Compacted(5)
	w.Open()
	w.Receive(message(4, false), 0)
	w.Receive(message(5, false, "e"), 0)
	w.Receive(message(7, false, "f"), 0)
	if v := CheckWatch(l, w, 5); len(v) > 0 {
		t.Error(v)
	}
	if v := CheckWatch(l, w, 4); len(v) == 0 {
		t.Error("nobody compacted to 5, and it was not seen")
	}
}
