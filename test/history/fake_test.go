package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// fake is a right store with made-up time: ops take effect one after the other,
// each at some moment between its call and its return. A test takes what it
// recorded, breaks it, and expects to be told.
type fake struct {
	rng      *rand.Rand
	revision int64
	now      map[string]KV
	all      *Watch // The log.
	ops      []*Op
	returned []int64 // By client.
}

const (
	fakeClients  = 8
	fakeKeys     = 3
	fakeAccounts = 4
	fakeBalance  = 100
	// lag is the longest time, in the fake's ticks, from call to effect and
	// from effect to return; effects are a tick apart.
	lag = 12
)

func newFake(seed uint64) *fake {
	f := &fake{
		rng:      rand.New(rand.NewPCG(seed, 0)),
		revision: firstRevision,
		now:      map[string]KV{},
		all:      NewWatch("all", "\x00", "\xff", 1, true),
		returned: make([]int64, fakeClients),
	}
	f.all.Through = firstRevision
	return f
}

func (f *fake) run(ops int) *History {
	tick := int64(1000)
	for i := range fakeAccounts {
		f.apply(&Op{Name: "open", Writes: []Write{{Key: account(i), Value: balance(fakeBalance, i)}}}, tick)
		tick += 2 * lag
	}
	for range ops {
		tick++
		client := f.rng.IntN(fakeClients)
		if f.returned[client]+1 >= tick {
			continue
		}
		op := f.draw()
		op.Client = client
		op.Call = max(f.returned[client]+1, tick-f.rng.Int64N(lag)-1)
		f.apply(op, tick)
	}
	return &History{Ops: f.ops, Watches: []*Watch{f.all}}
}

func account(i int) string { return fmt.Sprintf("bank/%d", i) }

// balance is unique, and says how much.
func balance(amount int64, unique int) string { return fmt.Sprintf("%d#%d", amount, unique) }

func amount(value string) int64 {
	for i, c := range value {
		if c == '#' {
			n, _ := strconv.ParseInt(value[:i], 10, 64)
			return n
		}
	}
	return 0
}

func (f *fake) draw() *Op {
	key := fmt.Sprintf("hot/%d", f.rng.IntN(fakeKeys))
	value := fmt.Sprintf("v%d", len(f.ops))
	put := Write{Key: key, Value: value}
	switch f.rng.IntN(9) {
	case 0, 1:
		return &Op{Name: "put", Writes: []Write{put}}
	case 2:
		return &Op{Name: "delete", Writes: []Write{{Key: key, Delete: true}}}
	case 3:
		return &Op{Name: "swap", Guards: []Guard{{Key: key, Revision: f.now[key].Mod}}, Writes: []Write{put}}
	case 4:
		return &Op{Name: "swap", Guards: []Guard{{Key: key, ByValue: true, Value: f.now[key].Value}}, Writes: []Write{put}}
	case 5:
		return &Op{Name: "create", Guards: []Guard{{Key: key}}, Writes: []Write{put}}
	case 6:
		return &Op{Name: "balances", Read: &Read{Key: "bank/", End: "bank0", Consistency: Linearizable}}
	case 7:
		return f.transfer()
	}
	return &Op{Name: "get", Read: &Read{Key: key, Consistency: Linearizable}}
}

func (f *fake) transfer() *Op {
	from := f.rng.IntN(fakeAccounts)
	to := (from + 1 + f.rng.IntN(fakeAccounts-1)) % fakeAccounts
	a, b := f.now[account(from)], f.now[account(to)]
	return &Op{
		Name:   "transfer",
		Guards: []Guard{{Key: a.Key, Revision: a.Mod}, {Key: b.Key, Revision: b.Mod}},
		Writes: []Write{
			{Key: a.Key, Value: balance(amount(a.Value)-1, 2*len(f.ops)+1000)},
			{Key: b.Key, Value: balance(amount(b.Value)+1, 2*len(f.ops)+1001)},
		},
	}
}

// apply makes an op take effect at a tick, and records it.
func (f *fake) apply(op *Op, tick int64) {
	if op.Call == 0 {
		op.Call = tick - 1
	}
	op.ID = len(f.ops) + 1
	f.ops = append(f.ops, op)
	op.Outcome, op.Return = OK, tick+f.rng.Int64N(lag)+1
	f.returned[op.Client] = op.Return
	fate := f.rng.IntN(20)
	if op.Name == "open" {
		fate = -1
	}
	switch fate {
	case 0: // Unknown, and applied.
		f.effect(op, tick)
		op.Outcome, op.Return, op.Answer = Unknown, 0, Answer{}
		return
	case 1: // Unknown, and not applied.
		op.Outcome, op.Return = Unknown, 0
		return
	case 2:
		op.Outcome = Refused
		return
	}
	f.effect(op, tick)
}

func (f *fake) effect(op *Op, tick int64) {
	op.Succeeded = true
	for _, g := range op.Guards {
		kv := f.now[g.Key]
		if g.ByValue && (kv.Mod == 0 || kv.Value != g.Value) || !g.ByValue && kv.Mod != g.Revision {
			op.Succeeded = false
		}
	}
	var events []Event
	for _, w := range op.Writes {
		if op.Succeeded {
			events = append(events, f.write(op, w, tick)...)
		}
	}
	if len(events) > 0 {
		f.revision++
		f.all.Events = append(f.all.Events, events...)
		f.all.Through = f.revision
	}
	op.Revision = f.revision
	if op.Read != nil {
		for _, kv := range f.now {
			if op.Read.covers(kv.Key) {
				op.KVs = append(op.KVs, kv)
			}
		}
		slices.SortFunc(op.KVs, func(a, b KV) int { return int(a.Key[len(a.Key)-1]) - int(b.Key[len(b.Key)-1]) })
	}
}

func (f *fake) write(op *Op, w Write, tick int64) []Event {
	prev, existed := f.now[w.Key]
	event := Event{KV: KV{Key: w.Key, Mod: f.revision + 1}, Delete: w.Delete, At: tick + lag}
	if existed {
		event.Prev = &prev
	}
	if w.Delete {
		if !existed {
			return nil
		}
		op.Deleted++
		delete(f.now, w.Key)
		return []Event{event}
	}
	event.KV = KV{Key: w.Key, Value: w.Value, Create: event.Mod, Mod: event.Mod, Version: 1}
	if existed {
		event.Create, event.Version = prev.Create, prev.Version+1
	}
	f.now[w.Key] = event.KV
	return []Event{event}
}

// groups puts the accounts in one group, every other key in its own.
func groups(key string) string {
	if key[:4] == "bank" {
		return "bank"
	}
	return key
}

// checks are all checks of a history with one watch of all keys.
func checks(t *testing.T, h *History) map[string][]Violation {
	l := NewLog(h.Watches[0])
	found := map[string][]Violation{}
	add := func(name string, violations []Violation) {
		if len(violations) > 0 {
			found[name] = violations
		}
	}
	add("log", CheckLog(h.Watches[0]))
	add("serial", CheckSerial(l, h, 0))
	for _, w := range h.Watches {
		add("watch", CheckWatch(l, w, 0))
	}
	add("linearizable", CheckLinearizable(h, l, groups, 20*time.Second, t.TempDir()))
	return found
}

func message(revision int64, partial bool, keys ...string) *kvv1.WatchResponse {
	m := &kvv1.WatchResponse{Header: &kvv1.ResponseHeader{Revision: revision}, Partial: partial}
	for _, key := range keys {
		m.Events = append(m.Events, &kvv1.Event{
			Type: kvv1.Event_TYPE_PUT,
			Kv:   &kvv1.KeyValue{Key: []byte(key), Value: []byte(fmt.Sprint(key, revision)), CreateRevision: revision, ModRevision: revision, Version: 1},
		})
	}
	return m
}
