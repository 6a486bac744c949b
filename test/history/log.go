package history

import (
	"cmp"
	"maps"
	"slices"
	"sort"
)

// firstRevision is the revision of an empty store.
const firstRevision = 1

// Change is one change of one key. Of a deletion only the key and Mod are set.
type Change struct {
	KV
	Delete bool `json:"delete,omitempty"`
}

// Log is every change of every revision of a database.
type Log struct {
	last   int64
	byRev  map[int64][]Change
	byKey  map[string][]Change // In the order of revisions.
	byText map[string]int64    // The revision that wrote a value.
	keys   []string            // All that ever were, in order.
}

// NewLog builds the log from a watch of all keys from the first revision.
func NewLog(w *Watch) *Log {
	l := &Log{
		last:   max(w.Through, firstRevision),
		byRev:  map[int64][]Change{},
		byKey:  map[string][]Change{},
		byText: map[string]int64{},
	}
	for i := range w.Events {
		c := Change{KV: w.Events[i].KV, Delete: w.Events[i].Delete}
		l.byRev[c.Mod] = append(l.byRev[c.Mod], c)
		l.byKey[c.Key] = append(l.byKey[c.Key], c)
		if !c.Delete {
			l.byText[c.Value] = c.Mod
		}
		l.last = max(l.last, c.Mod)
	}
	l.keys = slices.Sorted(maps.Keys(l.byKey))
	return l
}

// Last is the newest revision of the log.
func (l *Log) Last() int64 { return l.last }

// Changes are those of one revision, in order of keys.
func (l *Log) Changes(revision int64) []Change {
	changes := slices.Clone(l.byRev[revision])
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Key, b.Key) })
	return changes
}

// Get is a key as it was at a revision.
func (l *Log) Get(key string, revision int64) (KV, bool) {
	versions := l.byKey[key]
	i := sort.Search(len(versions), func(i int) bool { return versions[i].Mod > revision })
	if i == 0 || versions[i-1].Delete {
		return KV{}, false
	}
	return versions[i-1].KV, true
}

// Range gives the keys that a read covers, as they were at a revision.
func (l *Log) Range(r *Read, revision int64) []KV {
	if r.End == "" {
		if kv, ok := l.Get(r.Key, revision); ok {
			return []KV{kv}
		}
		return nil
	}
	var kvs []KV
	first, _ := slices.BinarySearch(l.keys, r.Key)
	for _, key := range l.keys[first:] {
		if !r.covers(key) {
			break
		}
		if kv, ok := l.Get(key, revision); ok {
			kvs = append(kvs, kv)
		}
	}
	return kvs
}

// All gives every key as it was at a revision, in order.
func (l *Log) All(revision int64) []KV {
	return l.Range(&Read{Key: "\x00", End: "\xff\xff\xff"}, revision)
}

// CheckLog tells whether the watch that the log is made of is a possible history:
// no revision is missing, and every change follows from those before.
func CheckLog(w *Watch) []Violation {
	f := &findings{check: "log"}
	if w.Start > firstRevision {
		f.add("the log begins at revision %d: what was before is not checked", w.Start)
	}
	for _, g := range w.Gaps {
		f.add("not checked: the log has no revisions from %d to before %d, they were compacted before it read them", g.From, g.To)
	}
	l := NewLog(w)
	for revision := int64(firstRevision + 1); revision <= l.last; revision++ {
		if len(l.byRev[revision]) == 0 {
			f.add("revision %d has no changes", revision)
		}
	}
	last := int64(0)
	now := map[string]KV{}
	texts := map[string]int64{}
	for i := range w.Events {
		c := Change{KV: w.Events[i].KV, Delete: w.Events[i].Delete}
		if c.Mod < last {
			f.add("revision %d of key %s comes after revision %d", c.Mod, c.Key, last)
		}
		last = c.Mod
		l.follow(f, now, texts, c)
	}
	return f.result()
}

// follow checks one change against the state before it, and makes it.
func (l *Log) follow(f *findings, now map[string]KV, texts map[string]int64, c Change) {
	before, existed := now[c.Key]
	if c.Delete {
		if !existed {
			f.add("revision %d deletes key %s, which does not exist", c.Mod, c.Key)
		}
		delete(now, c.Key)
		return
	}
	create, version := c.Mod, int64(1)
	if existed {
		create, version = before.Create, before.Version+1
	}
	if existed && before.Mod >= c.Mod {
		f.add("revision %d changes key %s after revision %d did", c.Mod, c.Key, before.Mod)
	}
	if c.Create != create || c.Version != version {
		f.add("revision %d of key %s has create revision %d and version %d, want %d and %d", c.Mod, c.Key, c.Create, c.Version, create, version)
	}
	if other, ok := texts[c.Value]; ok && other != c.Mod {
		f.add("value %q of key %s was written twice: at revisions %d and %d", c.Value, c.Key, other, c.Mod)
	}
	texts[c.Value] = c.Mod
	now[c.Key] = c.KV
}
