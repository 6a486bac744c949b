package history

import (
	"cmp"
	"fmt"
	"slices"
)

// Sample is what one pod said about itself at one moment.
type Sample struct {
	At       int64  `json:"at"`
	Cluster  string `json:"cluster"`
	Pod      string `json:"pod"`
	Member   string `json:"member"`
	Master   bool   `json:"master,omitempty"`
	Term     uint64 `json:"term"`
	Revision int64  `json:"revision"`
}

// CheckSamples tells whether there was one cluster, and at most one master in
// each term.
func CheckSamples(samples []Sample) []Violation {
	f := &findings{check: "samples"}
	masters := map[uint64]Sample{}
	var first Sample
	for _, s := range samples {
		if s.Cluster != "" {
			if first.Cluster == "" {
				first = s
			}
			if s.Cluster != first.Cluster {
				f.add("%s is of cluster %s, %s was of cluster %s", s.Pod, s.Cluster, first.Pod, first.Cluster)
			}
		}
		if !s.Master {
			continue
		}
		if other, ok := masters[s.Term]; ok && other.Member != s.Member {
			f.add("term %d has two masters: %s and %s", s.Term, other.Member, s.Member)
		}
		masters[s.Term] = s
	}
	return f.result()
}

// Copy is what one pod holds at the end.
type Copy struct {
	Pod      string
	Revision int64 // Of the hash and of KVs.
	Hash     uint64
	KVs      []KV // Every key.
}

// CheckCopies tells whether all pods hold the same, and what the log says.
func CheckCopies(l *Log, copies []Copy) []Violation {
	f := &findings{check: "copies"}
	for _, c := range copies {
		first := copies[0]
		if c.Revision != first.Revision || c.Hash != first.Hash {
			f.add("%s has hash %016x at revision %d, %s has %016x at %d", c.Pod, c.Hash, c.Revision, first.Pod, first.Hash, first.Revision)
		}
		kvs := slices.SortedFunc(slices.Values(c.KVs), func(a, b KV) int { return cmp.Compare(a.Key, b.Key) })
		if want := l.All(c.Revision); !slices.Equal(kvs, want) {
			f.add("%s holds at revision %d something else than the log: %s", c.Pod, c.Revision, difference(kvs, want))
		}
	}
	return f.result()
}

// difference is the first one between two sorted lists.
func difference(got, want []KV) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("%+v is missing", want[i])
		case i >= len(want):
			return fmt.Sprintf("%+v is too much", got[i])
		case got[i] != want[i]:
			return fmt.Sprintf("got %+v, want %+v", got[i], want[i])
		}
	}
	return "none"
}

// CheckTotal tells whether the values of a range of keys, as numbers, have had
// the same total at every revision since they all existed.
func CheckTotal(l *Log, r *Read, from, total int64, number func(value string) int64) []Violation {
	f := &findings{check: "total"}
	for revision := from; revision <= l.last; revision++ {
		touched := revision == from
		for _, c := range l.byRev[revision] {
			touched = touched || r.covers(c.Key)
		}
		if !touched {
			continue
		}
		sum := int64(0)
		for _, kv := range l.Range(r, revision) {
			sum += number(kv.Value)
		}
		if sum != total {
			f.add("the total of %s is %d at revision %d, want %d", r.Key, sum, revision, total)
		}
	}
	return f.result()
}
