package history

import (
	"fmt"
	"strings"
	"time"
)

// Outcome is what a client knows of an op when it is over.
type Outcome string

const (
	// Unknown: it may have been applied, now or later.
	Unknown Outcome = "unknown"
	// OK: answered; what was answered is in the op.
	OK Outcome = "ok"
	// Refused: the answer was that nothing was applied, nor ever will be.
	Refused Outcome = "refused"
)

// Consistency is how fresh a read asked to be.
type Consistency string

const (
	Linearizable Consistency = "linearizable"
	Bounded      Consistency = "bounded"
	Local        Consistency = "local"
)

// KV is one version of a key.
type KV struct {
	Key     string `json:"key"`
	Value   string `json:"value,omitempty"`
	Create  int64  `json:"create,omitempty"`
	Mod     int64  `json:"mod,omitempty"`
	Version int64  `json:"version,omitempty"`
	Lease   int64  `json:"lease,omitempty"`
}

// Guard is a compare of a transaction: the key has this mod revision (0: it
// does not exist), or, with ByValue, this value.
type Guard struct {
	Key      string `json:"key"`
	ByValue  bool   `json:"by_value,omitempty"`
	Revision int64  `json:"revision,omitempty"`
	Value    string `json:"value,omitempty"`
}

// Write puts or deletes one key.
type Write struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Delete bool   `json:"delete,omitempty"`
	Lease  int64  `json:"lease,omitempty"`
}

// Everything is the end of a range that has none.
const Everything = "\x00"

// Read reads a key, or the keys from Key up to before End.
type Read struct {
	Key         string        `json:"key"`
	End         string        `json:"end,omitempty"`
	Consistency Consistency   `json:"consistency"`
	Staleness   time.Duration `json:"staleness,omitempty"` // For Bounded.
	MinRevision int64         `json:"min_revision,omitempty"`
	At          int64         `json:"at,omitempty"` // Read at this revision; 0: the newest.
}

func (r *Read) covers(key string) bool {
	switch r.End {
	case "":
		return key == r.Key
	case Everything:
		return r.Key <= key
	}
	return r.Key <= key && key < r.End
}

// Op is one operation of one client. Writes happen when all guards hold; a read
// in the same op is a part of the same transaction, after the writes, and
// happens even if they do not.
type Op struct {
	ID     int     `json:"id"`
	Client int     `json:"client"`
	Name   string  `json:"name"` // For people: put, swap, transfer.
	Guards []Guard `json:"guards,omitempty"`
	Writes []Write `json:"writes,omitempty"`
	Read   *Read   `json:"read,omitempty"`

	Call     int64   `json:"call"`   // Nanoseconds since the recording began.
	Return   int64   `json:"return"` // Likewise; 0: never.
	Outcome  Outcome `json:"outcome"`
	Error    string  `json:"error,omitempty"`    // The last one, also of an attempt that was repeated.
	Attempts int     `json:"attempts,omitempty"` // How often it was sent.
	Answer
	Repeats []Answer `json:"repeats,omitempty"` // Further answers to the same request id.
}

// Answer is what an op that is OK was told.
type Answer struct {
	Revision  int64  `json:"revision,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Replayed  bool   `json:"replayed,omitempty"`
	Succeeded bool   `json:"succeeded,omitempty"` // All guards held (or there were none).
	Deleted   int64  `json:"deleted,omitempty"`   // How many keys the writes deleted.
	KVs       []KV   `json:"kvs,omitempty"`       // What the read found.
}

// Changing tells if the op's answer says that it made a revision.
func (o *Op) Changing() bool {
	if o.Outcome != OK || !o.Succeeded {
		return false
	}
	for _, w := range o.Writes {
		if !w.Delete {
			return true
		}
	}
	return o.Deleted > 0
}

// putValue is a value by which the op is found in the log, if it writes one.
func (o *Op) putValue() (string, bool) {
	for _, w := range o.Writes {
		if !w.Delete {
			return w.Value, true
		}
	}
	return "", false
}

// String is one line for a report.
func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "op %d (client %d, %s", o.ID, o.Client, o.Name)
	for _, g := range o.Guards {
		if g.ByValue {
			fmt.Fprintf(&b, " if %s=%q", g.Key, g.Value)
		} else {
			fmt.Fprintf(&b, " if %s@%d", g.Key, g.Revision)
		}
	}
	for _, w := range o.Writes {
		if w.Delete {
			fmt.Fprintf(&b, " delete %s", w.Key)
		} else {
			fmt.Fprintf(&b, " put %s=%q", w.Key, w.Value)
		}
	}
	if r := o.Read; r != nil {
		fmt.Fprintf(&b, " read %s", r.Key)
		if r.End != "" {
			fmt.Fprintf(&b, "..%s", r.End)
		}
		fmt.Fprintf(&b, " %s", r.Consistency)
		if r.Staleness > 0 {
			fmt.Fprintf(&b, " %v", r.Staleness)
		}
		if r.MinRevision > 0 {
			fmt.Fprintf(&b, " min %d", r.MinRevision)
		}
		if r.At > 0 {
			fmt.Fprintf(&b, " at %d", r.At)
		}
	}
	fmt.Fprintf(&b, ") called %v", time.Duration(o.Call))
	switch o.Outcome {
	case OK:
		fmt.Fprintf(&b, " returned %v: revision %d from %s, succeeded %v, deleted %d, %d attempts, replayed %v",
			time.Duration(o.Return), o.Revision, o.Pod, o.Succeeded, o.Deleted, o.Attempts, o.Replayed)
		for _, kv := range o.KVs {
			fmt.Fprintf(&b, ", %s=%q@%d", kv.Key, kv.Value, kv.Mod)
		}
	default:
		fmt.Fprintf(&b, " %s: %s", o.Outcome, o.Error)
	}
	return b.String()
}
