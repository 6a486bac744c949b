package store_test

import (
	"context"
	"fmt"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// driver feeds a store as the log would.
type driver struct {
	t     testing.TB
	dir   string
	s     *store.Store
	index uint64
}

func open(t testing.TB, tableBytes int) *driver {
	d := &driver{t: t, dir: t.TempDir()}
	d.open(tableBytes)
	t.Cleanup(d.close)
	return d
}

func (d *driver) open(tableBytes int) {
	d.t.Helper()
	s, err := store.Open(store.Options{Dir: d.dir, TableBytes: tableBytes})
	if err != nil {
		d.t.Fatal(err)
	}
	d.s, d.index = s, s.Applied()
}

// close checks the file's invariants first.
func (d *driver) close() {
	d.t.Helper()
	if err := d.s.Check(context.Background()); err != nil {
		d.t.Errorf("check: %v", err)
	}
	if err := d.s.Close(); err != nil {
		d.t.Errorf("close: %v", err)
	}
}

func (d *driver) apply(command *kvv1.Command) *kvv1.Result {
	d.index++
	return d.s.Apply(d.index, 1, []*kvv1.Command{command})[0]
}

func put(key, value string) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func (d *driver) get(key string) string {
	d.t.Helper()
	resp, err := d.s.Range(context.Background(), &kvv1.RangeRequest{Key: []byte(key)})
	if err != nil {
		d.t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

func TestPutGetReopen(t *testing.T) {
	d := open(t, 64<<10)
	for i := range 5000 {
		d.apply(put(fmt.Sprintf("key-%04d", i%1000), fmt.Sprint(i)))
	}
	for round := range 2 {
		for i := range 1000 {
			if got, want := d.get(fmt.Sprintf("key-%04d", i)), fmt.Sprint(4000+i); got != want {
				t.Fatalf("round %d, key %d: %q, want %q", round, i, got, want)
			}
		}
		d.close()
		d.open(64 << 10)
	}
	if got := d.s.Status().Revision; got != 5001 {
		t.Fatalf("revision %d", got)
	}
}

func BenchmarkApply(b *testing.B) {
	for _, keys := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint("keys=", keys), func(b *testing.B) {
			d := open(b, 0)
			value := make([]byte, 256)
			entry := make([]*kvv1.Command, 0, 200)
			b.ReportAllocs()
			x := uint64(1)
			for b.Loop() {
				x = x*6364136223846793005 + 1442695040888963407
				entry = append(entry, &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{
					Key: fmt.Appendf(nil, "key-%08d", int(x>>33)%keys), Value: value}}})
				if len(entry) == cap(entry) {
					d.index++
					d.s.Apply(d.index, 1, entry)
					entry = entry[:0]
				}
			}
		})
	}
}
