package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Recorder collects what many clients see. Its clock is monotonic and the same
// for all.
type Recorder struct {
	start time.Time

	mu      sync.Mutex
	ops     []*Op
	watches []*Watch
	samples []Sample
}

// NewRecorder begins a recording.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }

// Now is the time since the recording began, in nanoseconds.
func (r *Recorder) Now() int64 { return int64(time.Since(r.start)) }

// Begin records the call of an op. The op belongs to the caller's goroutine
// until End.
func (r *Recorder) Begin(op *Op) {
	op.Outcome = Unknown
	r.mu.Lock()
	defer r.mu.Unlock()
	op.ID = len(r.ops) + 1
	r.ops = append(r.ops, op)
	op.Call = r.Now()
}

// End records the return of an op: its outcome and answer are filled in.
func (r *Recorder) End(op *Op) {
	op.Return = r.Now()
}

// Watch adds a watch; it belongs to the caller's goroutine.
func (r *Recorder) Watch(w *Watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches = append(r.watches, w)
}

// Sample records what a pod said about itself.
func (r *Recorder) Sample(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.At = r.Now()
	r.samples = append(r.samples, s)
}

// History is what was recorded. Call it when all who record have ended.
func (r *Recorder) History() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &History{Ops: r.ops, Watches: r.watches, Samples: r.samples}
}

// History is a whole recording.
type History struct {
	Ops     []*Op
	Watches []*Watch
	Samples []Sample
}

// Save writes the history into a directory: ops.jsonl, watches.jsonl,
// samples.jsonl.
func (h *History) Save(dir string) error {
	return errors.Join(
		SaveLines(filepath.Join(dir, "ops.jsonl"), h.Ops),
		SaveLines(filepath.Join(dir, "watches.jsonl"), h.Watches),
		SaveLines(filepath.Join(dir, "samples.jsonl"), h.Samples),
	)
}

// SaveLines writes one line of JSON for each item.
func SaveLines[T any](path string, items []T) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w := bufio.NewWriter(file)
	encoder := json.NewEncoder(w)
	for _, item := range items {
		if err := encoder.Encode(item); err != nil {
			return err
		}
	}
	return w.Flush()
}

// evidence says what revision had been seen by whom at what time: whoever
// called later and asked for a linearizable answer must see it too.
type evidence struct {
	at       []int64
	revision []int64 // The highest seen up to at.
}

func newEvidence(h *History) *evidence {
	type sight struct{ at, revision int64 }
	var seen []sight
	for _, op := range h.Ops {
		if op.Outcome == OK {
			seen = append(seen, sight{op.Return, op.Revision})
		}
	}
	for _, w := range h.Watches {
		for i := range w.Events {
			seen = append(seen, sight{w.Events[i].At, w.Events[i].Mod})
		}
	}
	slices.SortFunc(seen, func(a, b sight) int { return int(min(max(a.at-b.at, -1), 1)) })
	e := &evidence{}
	highest := int64(0)
	for _, s := range seen {
		highest = max(highest, s.revision)
		e.at, e.revision = append(e.at, s.at), append(e.revision, highest)
	}
	return e
}

// before is the highest revision that somebody had seen before a time.
func (e *evidence) before(t int64) int64 {
	i, _ := slices.BinarySearch(e.at, t)
	if i == 0 {
		return 0
	}
	return e.revision[i-1]
}

// firstSeen is when somebody first saw a revision at least so high, and whether
// that was ever.
func (e *evidence) firstSeen(revision int64) (int64, bool) {
	i, _ := slices.BinarySearch(e.revision, revision)
	if i == len(e.at) {
		return 0, false
	}
	return e.at[i], true
}
