package history

import (
	"cmp"
	"slices"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Event is one change that a watcher received.
type Event struct {
	KV
	Delete bool  `json:"delete,omitempty"`
	Prev   *KV   `json:"prev,omitempty"`
	At     int64 `json:"at"` // When it was received.
}

// Gap is what a watcher was told that it cannot have: COMPACTED.
type Gap struct {
	From int64 `json:"from"`
	To   int64 `json:"to"` // The oldest revision that is kept.
}

// Watch is what one watcher received, over as many streams as it took. For one
// goroutine.
type Watch struct {
	Name    string   `json:"name"`
	Key     string   `json:"key"`
	End     string   `json:"end,omitempty"` // Empty: one key.
	Start   int64    `json:"start"`         // The first revision of interest.
	PrevKV  bool     `json:"prev_kv,omitempty"`
	Through int64    `json:"through"` // Everything up to here was received.
	Streams int      `json:"streams"`
	Gaps    []Gap    `json:"gaps,omitempty"`
	Events  []Event  `json:"events"`
	Wrong   []string `json:"wrong,omitempty"` // What broke the protocol at once.

	partial []Event // The part of a revision that is not complete.
	greeted bool
}

// NewWatch begins a watch at a revision, at least 1.
func NewWatch(name, key, end string, start int64, prevKV bool) *Watch {
	return &Watch{Name: name, Key: key, End: end, Start: start, PrevKV: prevKV, Through: start - 1}
}

// Next is the revision that the next stream starts with.
func (w *Watch) Next() int64 { return w.Through + 1 }

// Open says that a new stream starts at Next: what was received of an incomplete
// revision is forgotten, because it comes again.
func (w *Watch) Open() {
	w.Streams++
	w.partial, w.greeted = nil, false
}

// Compacted says that the watch was refused: only what is from oldest on is kept.
func (w *Watch) Compacted(oldest int64) {
	if oldest <= w.Next() {
		w.wrong("COMPACTED with oldest revision %d, but revision %d was asked for", oldest, w.Next())
		return
	}
	w.Gaps = append(w.Gaps, Gap{From: w.Next(), To: oldest})
	w.Through = oldest - 1
}

// Receive records one message.
func (w *Watch) Receive(m *kvv1.WatchResponse, at int64) {
	revision := m.GetHeader().GetRevision()
	if !w.greeted {
		w.greeted = true
		if len(m.Events) > 0 || revision != w.Through {
			w.wrong("the first message has %d events and revision %d, want none and %d", len(m.Events), revision, w.Through)
		}
		return
	}
	for _, e := range m.Events {
		w.partial = append(w.partial, newEvent(e, at))
	}
	if m.Partial {
		return
	}
	if len(m.Events) == 0 && len(w.partial) > 0 {
		w.wrong("progress to revision %d in the middle of a revision", revision)
	}
	w.Events = append(w.Events, w.partial...)
	for _, e := range w.partial {
		w.Through = max(w.Through, e.Mod)
	}
	w.partial = nil
	if len(m.Events) == 0 {
		w.Through = max(w.Through, revision) // With events it says how far the pod is.
	}
}

func (w *Watch) wrong(format string, args ...any) {
	f := findings{check: "watch"}
	f.add(format, args...)
	w.Wrong = append(w.Wrong, f.found[0].Text)
}

func newEvent(e *kvv1.Event, at int64) Event {
	event := Event{KV: NewKV(e.Kv), Delete: e.Type == kvv1.Event_TYPE_DELETE, At: at}
	if e.PrevKv != nil {
		prev := NewKV(e.PrevKv)
		event.Prev = &prev
	}
	return event
}

// NewKV translates a version of a key.
func NewKV(kv *kvv1.KeyValue) KV {
	return KV{
		Key:     string(kv.GetKey()),
		Value:   Shorten(kv.GetValue()),
		Create:  kv.GetCreateRevision(),
		Mod:     kv.GetModRevision(),
		Version: kv.GetVersion(),
		Lease:   kv.GetLease(),
	}
}

func (w *Watch) covers(key string) bool {
	r := Read{Key: w.Key, End: w.End}
	return r.covers(key)
}

func (w *Watch) inGap(revision int64) bool {
	for _, g := range w.Gaps {
		if g.From <= revision && revision < g.To {
			return true
		}
	}
	return false
}

// CheckWatch tells whether a watcher received the log: each event of its keys
// once and in order, and nothing else. Previous values may be missing only
// before the revision compacted, the highest that the history was compacted to.
func CheckWatch(l *Log, w *Watch, compacted int64) []Violation {
	f := &findings{check: "watch " + w.Name}
	for _, text := range w.Wrong {
		f.add("%s", text)
	}
	received := map[int64][]Event{}
	last := int64(0)
	for _, e := range w.Events {
		switch {
		case e.Mod < last:
			f.add("revision %d of key %s was sent after revision %d", e.Mod, e.Key, last)
		case e.Mod < w.Start || !w.covers(e.Key):
			f.add("revision %d of key %s was not asked for", e.Mod, e.Key)
		}
		last = max(last, e.Mod)
		received[e.Mod] = append(received[e.Mod], e)
	}
	for _, g := range w.Gaps {
		if g.To > compacted {
			f.add("was told that revision %d is the oldest, but nobody compacted beyond %d", g.To, compacted)
		}
	}
	if w.Through > l.last {
		f.add("went through revision %d, the log ends at %d", w.Through, l.last)
	}
	for revision := w.Start; revision <= min(max(w.Through, last), l.last); revision++ {
		var want []Change
		for _, c := range l.Changes(revision) {
			if w.covers(c.Key) && !w.inGap(revision) {
				want = append(want, c)
			}
		}
		l.compare(f, want, received[revision], revision, w.PrevKV, compacted)
	}
	return f.result()
}

// compare holds the events of one revision against the log.
func (l *Log) compare(f *findings, want []Change, got []Event, revision int64, prevKV bool, compacted int64) {
	slices.SortStableFunc(got, func(a, b Event) int { return cmp.Compare(a.Key, b.Key) })
	if len(want) != len(got) {
		f.add("revision %d has %d events, want %d: got %v, want %v", revision, len(got), len(want), got, want)
		return
	}
	for i, c := range want {
		e := got[i]
		if e.KV != c.KV || e.Delete != c.Delete {
			f.add("revision %d: got %+v, want %+v", revision, e, c)
		}
		prev, existed := l.Get(c.Key, revision-1)
		switch {
		case e.Prev == nil && prevKV && existed && revision-1 >= compacted:
			f.add("revision %d of key %s lacks its previous value of revision %d", revision, c.Key, prev.Mod)
		case e.Prev != nil && (!existed || *e.Prev != prev):
			f.add("revision %d of key %s has previous value %+v, want %+v (existed: %v)", revision, c.Key, *e.Prev, prev, existed)
		}
	}
}
