package history

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// serial is one run of CheckSerial.
type serial struct {
	findings
	log       *Log
	evidence  *evidence
	compacted int64
	owner     map[int64]*Op // Who made a revision.
	deletes   []deletion    // Those that no acknowledged op explains.
}

// deletion is a deletion in the log without an op that is known to have done it.
type deletion struct {
	revision int64
	key      string
}

// CheckSerial holds every op against the log:
//
//   - an acknowledged write is in the log at the revision it returned, with all
//     that it wrote and nothing else, and its guards held just before;
//   - a write that was refused, or whose guards did not hold, is nowhere;
//   - a write of unknown outcome is there once or nowhere, whole;
//   - nothing is in the log that nobody wrote, but the ends of leases;
//   - what was read is what the log has at the revision of the answer;
//   - a linearizable answer has at least the revision that anyone had seen
//     before it was asked for, a write a higher one; a bounded one likewise, its
//     staleness earlier; a local one at least its min_revision;
//   - all answers to one request id are the same.
func CheckSerial(l *Log, h *History, compacted int64) []Violation {
	s := &serial{
		findings:  findings{check: "serial"},
		log:       l,
		evidence:  newEvidence(h),
		compacted: compacted,
		owner:     map[int64]*Op{},
	}
	for _, op := range h.Ops {
		s.op(op)
	}
	s.unowned()
	s.explainDeletions(h.Ops)
	return s.result()
}

func (s *serial) op(op *Op) {
	switch op.Outcome {
	case OK:
		if op.Revision > s.log.last {
			s.add("acknowledged beyond the end of the log, revision %d: %v", s.log.last, op)
			return
		}
		s.fresh(op)
		s.acknowledged(op)
		s.read(op)
		s.repeats(op)
	case Refused:
		if value, ok := op.putValue(); ok && s.log.byText[value] != 0 {
			s.add("refused, but applied at revision %d: %v", s.log.byText[value], op)
		}
	case Unknown:
		if value, ok := op.putValue(); ok && s.log.byText[value] != 0 {
			s.applied(op, s.log.byText[value])
		}
	}
}

// fresh checks the revision of an answer against real time.
func (s *serial) fresh(op *Op) {
	since := op.Call
	switch {
	case len(op.Writes) > 0 || len(op.Guards) > 0:
	case op.Read.At > 0:
		return
	case op.Read.Consistency == Local:
		since = 0
	case op.Read.Consistency == Bounded:
		since -= int64(op.Read.Staleness)
	}
	needed := s.evidence.before(since)
	if op.Read != nil {
		needed = max(needed, op.Read.MinRevision)
	}
	if op.Revision < needed {
		s.add("stale: revision %d had been seen by %v: %v", needed, time.Duration(since), op)
	}
	if op.Changing() && op.Revision == needed {
		s.add("a write made a revision that had been seen before it was called: %v", op)
	}
}

// acknowledged checks an answered write.
func (s *serial) acknowledged(op *Op) {
	if len(op.Writes) == 0 && len(op.Guards) == 0 {
		return
	}
	if op.Changing() {
		s.applied(op, op.Revision)
		return
	}
	if value, ok := op.putValue(); ok && s.log.byText[value] != 0 {
		s.add("answered as not applied, but applied at revision %d: %v", s.log.byText[value], op)
	}
	if held := s.guardsHeld(op, op.Revision); held != op.Succeeded {
		s.add("answered that its guards held: %v, but the log says %v: %v", op.Succeeded, held, op)
	}
	if !op.Succeeded {
		return
	}
	for _, w := range op.Writes { // Deletions that found nothing.
		if kv, ok := s.log.Get(w.Key, op.Revision); ok {
			s.add("answered that there was no key %s to delete, but the log has %q of revision %d: %v", w.Key, kv.Value, kv.Mod, op)
		}
	}
}

// applied checks that a write is in the log at a revision, whole and alone.
func (s *serial) applied(op *Op, revision int64) {
	if other := s.owner[revision]; other != nil {
		s.add("revision %d belongs to two ops: %v and %v", revision, other, op)
		return
	}
	s.owner[revision] = op
	if seen := s.evidence.before(op.Call); revision <= seen {
		s.add("applied at revision %d, but revision %d had been seen before it was called: %v", revision, seen, op)
	}
	if !s.guardsHeld(op, revision-1) {
		s.add("applied at revision %d, but its guards did not hold: %v", revision, op)
	}
	if want, got := s.changes(op, revision), s.log.Changes(revision); !sameWrites(want, got) {
		s.add("revision %d has %+v, want %+v: %v", revision, got, want, op)
	}
}

// changes are what an op's writes change at a revision.
func (s *serial) changes(op *Op, revision int64) []Write {
	var writes []Write
	for _, w := range op.Writes {
		if w.Delete {
			if _, ok := s.log.Get(w.Key, revision-1); !ok {
				continue
			}
		}
		writes = append(writes, w)
	}
	slices.SortFunc(writes, func(a, b Write) int { return cmp.Compare(a.Key, b.Key) })
	return writes
}

func sameWrites(want []Write, got []Change) bool {
	return slices.EqualFunc(want, got, func(w Write, c Change) bool {
		return w.Key == c.Key && w.Delete == c.Delete && w.Value == c.Value && w.Lease == c.Lease
	})
}

func (s *serial) guardsHeld(op *Op, revision int64) bool {
	for _, g := range op.Guards {
		kv, _ := s.log.Get(g.Key, revision)
		if g.ByValue && (kv.Mod == 0 || kv.Value != g.Value) || !g.ByValue && kv.Mod != g.Revision {
			return false
		}
	}
	return true
}

// read checks what was read.
func (s *serial) read(op *Op) {
	if op.Read == nil {
		return
	}
	revision := op.Revision
	if op.Read.At > 0 {
		revision = op.Read.At
	}
	if want := s.log.Range(op.Read, revision); !slices.Equal(want, op.KVs) {
		s.add("read %+v, but at revision %d there was %+v: %v", op.KVs, revision, want, op)
	}
}

// repeats checks that a request id that was sent again was answered the same.
// What changed nothing has no revision of its own to be repeated.
func (s *serial) repeats(op *Op) {
	first := 0
	if !op.Replayed {
		first++
	}
	for _, again := range op.Repeats {
		if !again.Replayed {
			first++
		}
		if op.Changing() && again.Revision != op.Revision || again.Succeeded != op.Succeeded || again.Deleted != op.Deleted {
			s.add("the same request id was answered differently: %+v: %v", again, op)
		}
	}
	if op.Changing() && first > 1 {
		s.add("the same request id was answered %d times as if for the first time: %v", first, op)
	}
}

// unowned looks for revisions that no op made.
func (s *serial) unowned() {
	for revision := int64(firstRevision + 1); revision <= s.log.last; revision++ {
		if s.owner[revision] != nil {
			continue
		}
		for _, c := range s.log.byRev[revision] {
			before, _ := s.log.Get(c.Key, revision-1)
			switch {
			case !c.Delete:
				s.add("nobody wrote what revision %d has: %+v", revision, c)
			case before.Lease == 0:
				s.deletes = append(s.deletes, deletion{revision, c.Key})
			}
		}
	}
}

// explainDeletions finds for each deletion an op of unknown outcome that may
// have done it; one op explains one deletion.
func (s *serial) explainDeletions(ops []*Op) {
	open := map[string][]*Op{}
	for _, op := range ops {
		if _, puts := op.putValue(); op.Outcome == Unknown && !puts && len(op.Writes) == 1 {
			open[op.Writes[0].Key] = append(open[op.Writes[0].Key], op)
		}
	}
	for _, d := range s.deletes { // In the order of revisions.
		explained := false
		for i, op := range open[d.key] {
			if s.evidence.before(op.Call) < d.revision && s.guardsHeld(op, d.revision-1) {
				open[d.key] = slices.Delete(open[d.key], i, i+1)
				explained = true
				break
			}
		}
		if !explained {
			s.add("nobody deleted key %s at revision %d", d.key, d.revision)
		}
	}
}

// resolve says for an op of unknown outcome what the log knows: when it was over
// at the latest, and the revision that it made; or that it was never applied.
func (l *Log) resolve(op *Op, e *evidence) (revision, end int64, applied bool) {
	value, ok := op.putValue()
	if !ok {
		return 0, math.MaxInt64, true // A deletion: it stays open.
	}
	revision, ok = l.byText[value]
	if !ok {
		return 0, 0, false
	}
	end, ok = e.firstSeen(revision)
	if !ok {
		end = math.MaxInt64
	}
	return revision, max(end, op.Call), true
}
