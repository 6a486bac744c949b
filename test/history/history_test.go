package history

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// A right history passes every check, for many seeds.
func TestRight(t *testing.T) {
	for seed := range uint64(20) {
		h := newFake(seed).run(1500)
		for name, violations := range checks(t, h) {
			t.Errorf("seed %d: %s: %v", seed, name, violations)
		}
	}
}

// Without the log, porcupine leaves what is unknown open, and still agrees.
func TestRightWithoutLog(t *testing.T) {
	for seed := range uint64(5) {
		h := newFake(seed).run(120)
		if v := CheckLinearizable(h, nil, groups, 30*time.Second, t.TempDir()); len(v) > 0 {
			t.Errorf("seed %d: %v", seed, v)
		}
	}
}

// find gives the n-th op that a test wants to break.
func find(h *History, n int, wanted func(op *Op) bool) *Op {
	for _, op := range h.Ops {
		if wanted(op) {
			if n--; n < 0 {
				return op
			}
		}
	}
	panic("no such op")
}

func named(name string) func(*Op) bool {
	return func(op *Op) bool { return op.Name == name && op.Outcome == OK && op.Succeeded }
}

// readLater finds puts whose value a get saw.
func readLater(h *History) func(*Op) bool {
	read := map[string]bool{}
	for _, op := range h.Ops {
		if named("get")(op) && len(op.KVs) > 0 {
			read[op.KVs[0].Value] = true
		}
	}
	return func(op *Op) bool { return named("put")(op) && read[op.Writes[0].Value] }
}

// Each row breaks a right history as a bug would, and says which checks must
// see it.
func TestSeededBugs(t *testing.T) {
	for _, test := range []struct {
		name string
		seen []string
		bug  func(f *fake, h *History)
	}{
		{"a stale read", []string{"serial", "linearizable"}, func(_ *fake, h *History) {
			// It answers with what was there long before, header and all.
			op := find(h, 30, named("get"))
			old := find(h, 3, func(o *Op) bool { return named("get")(o) && o.Read.Key == op.Read.Key })
			op.Answer = old.Answer
		}},
		{"a stale read that claims to be fresh", []string{"serial", "linearizable"}, func(_ *fake, h *History) {
			op := find(h, 30, func(o *Op) bool { return named("get")(o) && len(o.KVs) > 0 })
			old := find(h, 3, func(o *Op) bool {
				return named("get")(o) && o.Read.Key == op.Read.Key && len(o.KVs) > 0 && o.KVs[0] != op.KVs[0]
			})
			op.KVs = old.KVs
		}},
		{"a lost write", []string{"serial", "linearizable"}, func(f *fake, h *History) {
			// Acknowledged, then gone: a write after it that the log never had.
			op := find(h, 5, readLater(h))
			op.Writes = []Write{{Key: op.Writes[0].Key, Value: "lost"}}
		}},
		{"a lost tail", []string{"serial"}, func(_ *fake, h *History) {
			w := h.Watches[0]
			w.Events = w.Events[:len(w.Events)-10]
			w.Through = w.Events[len(w.Events)-1].Mod
		}},
		{"a retry applied twice", []string{"log", "serial"}, func(f *fake, h *History) {
			op := find(h, 20, named("put"))
			f.write(op, op.Writes[0], 1<<40)
			f.revision++
			w := h.Watches[0]
			kv := f.now[op.Writes[0].Key]
			w.Events = append(w.Events, Event{KV: kv, At: 1 << 40})
			w.Through = f.revision
		}},
		{"a delayed retry deletes", []string{"serial"}, func(f *fake, h *History) {
			f.revision++
			w := h.Watches[0]
			w.Events = append(w.Events, Event{KV: KV{Key: account(0), Mod: f.revision}, Delete: true, At: 1 << 40})
			w.Through = f.revision
		}},
		{"a retry answered differently", []string{"serial"}, func(_ *fake, h *History) {
			op := find(h, 20, named("put"))
			op.Repeats = []Answer{{Revision: op.Revision + 1, Succeeded: true, Replayed: true}}
		}},
		{"a refused write was applied", []string{"serial", "linearizable"}, func(_ *fake, h *History) {
			find(h, 5, readLater(h)).Outcome = Refused
		}},
		{"a failed swap was applied", []string{"serial", "linearizable"}, func(_ *fake, h *History) {
			find(h, 5, named("create")).Succeeded = false
		}},
		{"a swap ignored its guard", []string{"serial", "linearizable"}, func(_ *fake, h *History) {
			find(h, 5, named("swap")).Guards[0] = Guard{Key: "hot/0", Revision: 2}
		}},
		{"a transfer wrote one account only", []string{"serial"}, func(_ *fake, h *History) {
			op := find(h, 3, named("transfer"))
			w := h.Watches[0]
			w.Events = slices.DeleteFunc(w.Events, func(e Event) bool { return e.Mod == op.Revision && e.Key == op.Writes[0].Key })
		}},
		{"balances of two moments", []string{"serial", "linearizable"}, func(_ *fake, h *History) {
			op := find(h, 10, func(o *Op) bool { return named("balances")(o) && len(o.KVs) == fakeAccounts })
			old := find(h, 3, func(o *Op) bool { return named("balances")(o) && len(o.KVs) == fakeAccounts && o.KVs[0] != op.KVs[0] })
			op.KVs = append([]KV{old.KVs[0]}, op.KVs[1:]...)
		}},
		{"a write went back in time", []string{"serial", "linearizable"}, func(_ *fake, h *History) {
			// Its revision is right, but it was called long after others had seen it.
			op := find(h, 10, named("put"))
			last := h.Ops[len(h.Ops)-1]
			op.Call, op.Return = last.Call+2*lag, last.Call+3*lag
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(7)
			h := f.run(1500)
			test.bug(f, h)
			found := checks(t, h)
			for _, check := range test.seen {
				if len(found[check]) == 0 {
					t.Errorf("check %s did not see it; seen: %v", check, found)
				}
			}
		})
	}
}

// Reads that are not linearizable have bounds of their own.
func TestFreshness(t *testing.T) {
	write := func(at int64) *Op {
		return &Op{Outcome: OK, Call: at - 1, Return: at, Answer: Answer{Revision: at, Succeeded: true}, Writes: []Write{{Key: "k", Value: string(rune('a' + at))}}}
	}
	all := NewWatch("all", "\x00", "\xff", 1, true)
	all.Open()
	all.Receive(message(0, false), 0)
	ops := []*Op{}
	for at := int64(2); at <= 9; at++ {
		op := write(at)
		ops = append(ops, op)
		now := KV{Key: "k", Value: op.Writes[0].Value, Create: 2, Mod: at, Version: at - 1}
		all.Events = append(all.Events, Event{KV: now, At: at})
	}
	all.Through = 9
	l := NewLog(all)
	for _, test := range []struct {
		name     string
		read     Read
		revision int64
		right    bool
	}{
		{"local may be old", Read{Key: "k", Consistency: Local}, 2, true},
		{"local with a minimum", Read{Key: "k", Consistency: Local, MinRevision: 5}, 5, true},
		{"local went back", Read{Key: "k", Consistency: Local, MinRevision: 5}, 4, false},
		{"bounded in time", Read{Key: "k", Consistency: Bounded, Staleness: 20}, 8, true},
		{"bounded too old", Read{Key: "k", Consistency: Bounded, Staleness: 5}, 5, false},
		{"linearizable", Read{Key: "k", Consistency: Linearizable}, 9, true},
		{"linearizable too old", Read{Key: "k", Consistency: Linearizable}, 8, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			kv, _ := l.Get("k", test.revision)
			op := &Op{Outcome: OK, Read: &test.read, Call: 12, Return: 13, Answer: Answer{Revision: test.revision, Succeeded: true, KVs: []KV{kv}}}
			v := CheckSerial(l, &History{Ops: append(slices.Clone(ops), op), Watches: []*Watch{all}}, 0)
			if (len(v) == 0) != test.right {
				t.Errorf("right: %v, violations: %v", test.right, v)
			}
		})
	}
}

func TestSamples(t *testing.T) {
	right := []Sample{
		{Cluster: "c", Pod: "kv-0", Member: "kv-0/a", Master: true, Term: 1},
		{Cluster: "c", Pod: "kv-1", Member: "kv-1/b", Master: true, Term: 2},
		{Cluster: "c", Pod: "kv-0", Member: "kv-0/a", Master: true, Term: 1},
	}
	if v := CheckSamples(right); len(v) > 0 {
		t.Error(v)
	}
	for name, wrong := range map[string]Sample{
		"two masters":  {Cluster: "c", Pod: "kv-2", Member: "kv-2/c", Master: true, Term: 2},
		"two clusters": {Cluster: "d", Pod: "kv-2", Member: "kv-2/c"},
	} {
		if v := CheckSamples(append(slices.Clone(right), wrong)); len(v) != 1 {
			t.Errorf("%s: %v", name, v)
		}
	}
}

func TestCopies(t *testing.T) {
	f := newFake(1)
	h := f.run(200)
	l := NewLog(h.Watches[0])
	right := Copy{Pod: "kv-0", Revision: l.Last(), Hash: 1, KVs: l.All(l.Last())}
	if v := CheckCopies(l, []Copy{right, right}); len(v) > 0 {
		t.Error(v)
	}
	hash, key := right, right
	hash.Hash, key.KVs = 2, right.KVs[1:]
	for _, wrong := range []Copy{hash, key} {
		if v := CheckCopies(l, []Copy{right, wrong}); len(v) != 1 {
			t.Error(v)
		}
	}
}

func TestTotal(t *testing.T) {
	f := newFake(3)
	h := f.run(500)
	bank := &Read{Key: "bank/", End: "bank0"}
	l := NewLog(h.Watches[0])
	opened := int64(len(l.Range(bank, l.Last())))
	if v := CheckTotal(l, bank, firstRevision+opened, opened*fakeBalance, amount); len(v) > 0 {
		t.Error(v)
	}
	e := slices.IndexFunc(h.Watches[0].Events, func(e Event) bool { return e.Version > 1 && e.Key[:4] == "bank" })
	h.Watches[0].Events[e].Value = "7#broken"
	if v := CheckTotal(NewLog(h.Watches[0]), bank, firstRevision+opened, opened*fakeBalance, amount); len(v) == 0 {
		t.Error("a broken total was not seen")
	}
}

// What cannot be decided is said.
func TestNotChecked(t *testing.T) {
	h := newFake(1).run(500)
	one := func(string) string { return "one" }
	v := CheckLinearizable(h, nil, groups, time.Nanosecond, t.TempDir())
	if len(v) == 0 || !strings.Contains(v[0].Text, "not checked") {
		t.Error(v)
	}
	for i := range h.Ops {
		if len(h.Ops[i].Writes) == 1 {
			h.Ops[i].Writes[0].Key += string(rune('a' + i%10))
		}
	}
	if v := CheckLinearizable(h, nil, one, time.Minute, t.TempDir()); len(v) != 1 || !strings.Contains(v[0].Text, "not checked") {
		t.Error(v)
	}
}
