package store

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Whoever wants to know how large a range is gets no copy of it.
func TestSizesAreNotCopied(t *testing.T) {
	d := newDriver(t, newHistory(), 1<<20)
	defer d.close()
	for i := range 32 {
		d.do(put(fmt.Sprintf("k%02d", i), strings.Repeat("v", 1<<20)))
	}
	if err := d.s.Flush(t.Context(), d.s.Applied()); err != nil { // It takes memory, too.
		t.Fatal(err)
	}
	for name, reverse := range map[string]bool{"upwards": false, "downwards": true} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		size, req := 0, &kvv1.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Reverse: reverse}
		if err := d.s.ScanSizes(asPod, req, func() bool { return true }, func(_ int64, kvs []*kvv1.KeyValue) error {
			for _, kv := range kvs {
				size += len(kv.GetValue())
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; size != 32<<20 || took > 16<<20 {
			t.Errorf("%s: %d bytes, and %d were taken", name, size, took)
		}
	}
}
