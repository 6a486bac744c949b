package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// testKeys returns different keys in no order: some share the prefix, and some
// also the eight bytes that a hint has.
func testKeys(random *rand.Rand, n int) [][]byte {
	keys := map[string]bool{}
	for len(keys) < n {
		key := fmt.Sprint([]string{"", "k", "key-", "key-00000000", "l"}[random.IntN(5)], random.IntN(10*n))
		keys[key] = true
	}
	var all [][]byte
	for key := range keys {
		all = append(all, []byte(key))
	}
	slices.SortFunc(all, bytes.Compare)
	random.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func TestSkiplist(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		l := newSkiplist([]byte("key-"))
		if next := l.nextPrefix(); string(next) != "key-" {
			t.Fatalf("the next prefix after no keys is %q", next)
		}
		keys := testKeys(random, 1+random.IntN(2000))
		var in [][]byte
		for len(keys) > 0 {
			n := 1 + random.IntN(min(len(keys), 1+random.IntN(500)))
			var nodes []*node
			for _, key := range keys[:n] {
				nodes = append(nodes, l.newNode(key, &tableVersion{}))
			}
			l.insert(nodes)
			in, keys = append(in, keys[:n]...), keys[n:]
			slices.SortFunc(in, bytes.Compare)
			checkSkiplist(t, l, in)
		}
	}
}

// checkSkiplist compares a list with the keys that it has, in order.
func checkSkiplist(t *testing.T, l *skiplist, keys [][]byte) {
	t.Helper()
	below := map[*node]bool{}
	for level := range int(l.height.Load()) {
		on := map[*node]bool{}
		var before *node
		for n := l.head.link(level).Load(); n != nil; n = n.link(level).Load() {
			if level == 0 && !bytes.Equal(n.key, keys[len(on)]) || level > 0 && !below[n] {
				t.Fatalf("level %d has %q as number %d", level, n.key, len(on))
			}
			if before != nil && bytes.Compare(before.key, n.key) >= 0 {
				t.Fatalf("level %d has %q before %q", level, before.key, n.key)
			}
			on[n], before = true, n
		}
		if level == 0 && len(on) != len(keys) {
			t.Fatalf("%d keys in the list, want %d", len(on), len(keys))
		}
		below = on
	}
	common := keys[0][:commonPrefix(keys[0], keys[len(keys)-1])]
	if next := common[:max(0, len(common)-countingBytes)]; !bytes.Equal(l.nextPrefix(), next) || l.nextPrefix() == nil {
		t.Fatalf("the next prefix is %q, want %q", l.nextPrefix(), next)
	}
	for i, key := range keys {
		if n := l.get(key); n == nil || !bytes.Equal(n.key, key) {
			t.Fatalf("%q is not found", key)
		}
		after := append(bytes.Clone(key), 0)
		if n := l.get(after); n != nil {
			t.Fatalf("%q is found", after)
		}
		if n := l.last(after); !bytes.Equal(n.key, key) {
			t.Fatalf("the last before %q is %q", after, n.key)
		}
		if n := l.last(key); i == 0 && n != nil || i > 0 && !bytes.Equal(n.key, keys[i-1]) {
			t.Fatalf("the last before %q is wrong", key)
		}
	}
}

// TestTableSorted reads a table from many goroutines while it is written: what
// was there before a read began is found.
func TestTableSorted(t *testing.T) {
	const keys = 20_000
	table := newTable(nil, state{})
	key := func(i int) []byte { return fmt.Appendf(nil, "%d", i*7919%keys) }
	var added atomic.Int64
	var readers sync.WaitGroup
	for r := range 4 {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(r), 1))
			for {
				n := int(added.Load())
				if n == 0 {
					continue
				}
				at := random.IntN(n)
				if table.sorted().get(key(at)) == nil {
					t.Errorf("%s, number %d of %d, is not found", key(at), at, n)
				}
				if n == keys {
					return
				}
			}
		})
	}
	for i := range keys {
		record := appendLogRecord(nil, key(i), &version{place: place{revision: int64(i + 1)}, create: int64(i + 1), version: 1})
		table.add(table.find(key(i)), place{revision: int64(i + 1)}, record)
		added.Store(int64(i + 1))
		if i%100 == 0 {
			table.tidy()
		}
	}
	readers.Wait()
	n := 0
	for at := table.sorted().head.next(); at != nil; at = at.next() {
		n++
	}
	if n != keys {
		t.Errorf("%d keys in the list, want %d", n, keys)
	}
}
