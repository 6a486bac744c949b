package oracle

import (
	"strings"
	"testing"
)

func TestLog(t *testing.T) {
	type step struct {
		pod                 string
		before, index, term uint64
		data                string
	}
	first := []step{{"kv-0", 0, 1, 1, "a"}, {"kv-0", 1, 3, 2, "b"}, {"kv-0", 3, 4, 2, "c"}}
	for _, tc := range []struct {
		name string
		then []step
		want string // a part of the failure; empty: none
	}{
		{"the same", []step{{"kv-1", 0, 1, 1, "a"}, {"kv-1", 1, 3, 2, "b"}, {"kv-1", 3, 4, 2, "c"}, {"kv-1", 4, 5, 2, "d"}}, ""},
		{"a clone", []step{{"kv-1", 3, 4, 2, "c"}}, ""},
		{"a restart", []step{{"kv-0", 1, 3, 2, "b"}, {"kv-0", 3, 4, 2, "c"}}, ""},
		{"other data", []step{{"kv-1", 1, 3, 2, "x"}}, "entry 3 differs: kv-1"},
		{"another term", []step{{"kv-1", 1, 3, 1, "b"}}, "entry 3 differs: kv-1"},
		{"an entry that nobody else had", []step{{"kv-1", 1, 2, 1, "x"}}, "after entry 1 kv-1 applies entry 2"},
		{"an entry that is left out", []step{{"kv-1", 1, 4, 2, "c"}}, "entry 4 differs: kv-1"},
		{"an entry that was, instead of one that was not", []step{{"kv-1", 3, 5, 2, "d"}}, "after entry 3 kv-1 applies entry 5"},
		{"different, by a pod that differs from itself", []step{{"kv-0", 3, 4, 2, "d"}}, "entry 4 differs: kv-0"},
	} {
		var failures []string
		l := New(func(err error) { failures = append(failures, err.Error()) })
		for _, s := range append(first[:len(first):len(first)], tc.then...) {
			l.Observe(s.pod)(s.before, s.index, s.term, []byte(s.data))
		}
		switch {
		case tc.want == "" && len(failures) > 0:
			t.Errorf("%s: %v", tc.name, failures)
		case tc.want != "" && (len(failures) != 1 || !strings.Contains(failures[0], tc.want)):
			t.Errorf("%s: %q, want %q", tc.name, failures, tc.want)
		}
	}
}
