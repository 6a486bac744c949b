package history

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	// maxGroupKeys bounds the keys that are checked together: the model's state
	// is copied at each step.
	maxGroupKeys = 8
	// maxGroupOps bounds the ops of a group: porcupine remembers a bit of each op
	// for each op, here 300 MB. The ten minutes of a long run make 50,000.
	maxGroupOps = 50_000
)

// cell is a key in the model.
type cell struct {
	value  string
	exists bool
	// rev is the revision of the last change. Without exact it is the last one
	// that is known: a write whose revision nobody was told came after it.
	rev   int64
	exact bool
}

// state is a group of keys in the model.
type state [maxGroupKeys]cell

// step is an op in the model: its keys are places in the state.
type step struct {
	op       *Op
	places   map[string]int
	open     bool  // The outcome is unknown.
	revision int64 // Of an open op: the revision that the log says it made; 0: not known.
}

// CheckLinearizable checks the ops with porcupine: those of each group of keys
// together. group names a key's group, which may have 8 keys at most, or returns
// "" for a key that is not checked; so are ops over several groups. Only
// linearizable ops are looked at. With a log, unknown outcomes are closed by what it knows,
// without it they stay open. A group that was not decided within the timeout is
// a violation. The picture of a violation is written into dir.
func CheckLinearizable(h *History, l *Log, group func(key string) string, timeout time.Duration, dir string) []Violation {
	f := &findings{check: "linearizable"}
	groups := map[string][]*Op{}
	for _, op := range h.Ops {
		if name := groupOf(op, group); name != "" {
			groups[name] = append(groups[name], op)
		}
	}
	names := make([]string, 0, len(groups))
	for name := range groups {
		names = append(names, name)
	}
	slices.Sort(names)
	deadline := time.Now().Add(timeout)
	e := newEvidence(h)
	for _, name := range names {
		history, err := model(groups[name], l, e)
		left := time.Until(deadline)
		switch {
		case err != nil:
			f.add("not checked: group %s: %v", name, err)
			continue
		case len(history) > maxGroupOps || left <= 0:
			f.add("not checked: group %s with %d ops (at most %d), %v left", name, len(history), maxGroupOps, left)
			continue
		}
		checkGroup(f, name, history, left, dir)
	}
	return f.result()
}

func checkGroup(f *findings, name string, history []porcupine.Operation, timeout time.Duration, dir string) {
	m := nondeterministic.ToModel()
	switch porcupine.CheckOperationsTimeout(m, history, timeout) {
	case porcupine.Ok:
		return
	case porcupine.Unknown:
		f.add("not checked: group %s with %d ops was not decided in %v", name, len(history), timeout)
	case porcupine.Illegal:
		f.add("group %s with %d ops is not linearizable", name, len(history))
	}
	_, info := porcupine.CheckOperationsVerbose(m, history, time.Minute)
	path := fmt.Sprintf("%s/%s.html", dir, strings.ReplaceAll(strings.Trim(name, "/"), "/", "-"))
	if err := porcupine.VisualizePath(m, info, path); err != nil {
		f.add("no picture of group %s: %v", name, err)
	}
}

// groupOf is the one group of an op's keys, or "".
func groupOf(op *Op, group func(string) string) string {
	name, first := "", true
	add := func(key string) {
		if g := group(key); first {
			name, first = g, false
		} else if g != name {
			name = ""
		}
	}
	for _, g := range op.Guards {
		add(g.Key)
	}
	for _, w := range op.Writes {
		add(w.Key)
	}
	if r := op.Read; r != nil {
		if len(op.Writes) == 0 && (r.Consistency != Linearizable || r.At > 0) {
			return ""
		}
		add(r.Key)
	}
	return name
}

// model turns the ops of a group into porcupine's history.
func model(ops []*Op, l *Log, e *evidence) ([]porcupine.Operation, error) {
	places, err := placesOf(ops)
	if err != nil {
		return nil, err
	}
	var history []porcupine.Operation
	for _, op := range ops {
		s := &step{op: op, places: places, open: op.Outcome == Unknown}
		end := op.Return
		switch op.Outcome {
		case Refused:
			continue
		case Unknown:
			if len(op.Writes) == 0 {
				continue
			}
			end = math.MaxInt64
			if l != nil {
				revision, by, applied := l.resolve(op, e)
				if !applied {
					continue
				}
				s.revision, end = revision, by
			}
		}
		history = append(history, porcupine.Operation{ClientId: op.Client, Input: s, Call: op.Call, Return: end})
	}
	return history, nil
}

func placesOf(ops []*Op) (map[string]int, error) {
	places := map[string]int{}
	add := func(key string) {
		if _, ok := places[key]; !ok {
			places[key] = len(places)
		}
	}
	for _, op := range ops {
		for _, g := range op.Guards {
			add(g.Key)
		}
		for _, w := range op.Writes {
			add(w.Key)
		}
		for _, kv := range op.KVs {
			add(kv.Key)
		}
		if op.Read != nil && op.Read.End == "" {
			add(op.Read.Key)
		}
	}
	if len(places) > maxGroupKeys {
		return nil, fmt.Errorf("%d keys, at most %d", len(places), maxGroupKeys)
	}
	return places, nil
}

var nondeterministic = porcupine.NondeterministicModel{
	Init: func() []any { return []any{state{}} },
	Step: func(from, input, _ any) []any {
		s := input.(*step)
		var next []any
		for _, to := range s.next(from.(state)) {
			next = append(next, to)
		}
		return next
	},
	DescribeOperation: func(input, _ any) string { return input.(*step).op.String() },
	DescribeState: func(of any) string {
		var b strings.Builder
		for i, c := range of.(state) {
			if c != (cell{}) {
				fmt.Fprintf(&b, "%d: %q exists=%v rev=%d exact=%v; ", i, c.value, c.exists, c.rev, c.exact)
			}
		}
		return b.String()
	},
}

// next are the states that an op can lead to.
func (s *step) next(from state) []state {
	held, notHeld := s.guards(from)
	var next []state
	if s.open {
		if held {
			if to, ok := s.write(from, s.revision); ok {
				next = append(next, to)
			}
		}
		if notHeld && s.revision == 0 {
			next = append(next, from)
		}
		return next
	}
	if s.op.Succeeded && !held || !s.op.Succeeded && !notHeld {
		return nil
	}
	to := from
	if s.op.Succeeded {
		revision := s.op.Revision
		if !s.op.Changing() {
			revision = 0
		}
		var ok bool
		if to, ok = s.write(from, revision); !ok {
			return nil
		}
	}
	if !s.read(&to) {
		return nil
	}
	for _, place := range s.places {
		if to[place].rev > s.op.Revision {
			return nil // The answer is of an older revision.
		}
	}
	return []state{to}
}

// guards tells if the guards may hold and may not hold in a state.
func (s *step) guards(from state) (held, notHeld bool) {
	held = true
	for _, g := range s.op.Guards {
		c := from[s.places[g.Key]]
		switch {
		case g.ByValue:
			if !c.exists || c.value != g.Value {
				held, notHeld = false, true
			}
		case g.Revision == 0:
			if c.exists {
				held, notHeld = false, true
			}
		case !c.exists, c.exact && c.rev != g.Revision, !c.exact && g.Revision <= c.rev:
			held, notHeld = false, true
		case !c.exact:
			notHeld = true // It may or may not be this revision.
		}
	}
	return held, notHeld || !held
}

// write makes the writes, at a revision, or at one that is not known (0).
func (s *step) write(from state, revision int64) (state, bool) {
	to := from
	deleted := int64(0)
	for _, w := range s.op.Writes {
		c := &to[s.places[w.Key]]
		if w.Delete && !c.exists {
			continue
		}
		if revision > 0 && revision <= c.rev {
			return from, false
		}
		if w.Delete {
			deleted++
		}
		c.value, c.exists = w.Value, !w.Delete
		c.exact = revision > 0
		c.rev = max(c.rev, revision)
	}
	return to, s.open || deleted == s.op.Deleted
}

// read checks what was read against a state, and learns revisions from it.
func (s *step) read(to *state) bool {
	r := s.op.Read
	if r == nil {
		return true
	}
	seen := map[string]bool{}
	for _, kv := range s.op.KVs {
		seen[kv.Key] = true
		c := &to[s.places[kv.Key]]
		if !c.exists || c.value != kv.Value || c.exact && c.rev != kv.Mod || !c.exact && kv.Mod <= c.rev {
			return false
		}
		c.rev, c.exact = kv.Mod, true
	}
	for key, place := range s.places {
		if r.covers(key) && !seen[key] && to[place].exists {
			return false
		}
	}
	return true
}
