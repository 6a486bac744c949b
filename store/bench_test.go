package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// benchStore returns a store of keys with 256-byte values, in the file.
func benchStore(b *testing.B, keys int) *Store {
	b.Helper()
	s, err := Open(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	for at := 0; at < keys; {
		var entry []*kvv1.Command
		for ; at < keys && len(entry) < 1000; at++ {
			entry = append(entry, benchPut(at))
		}
		s.Apply(s.Applied()+1, 1, entry)
	}
	if err := s.Flush(context.Background(), s.Applied()); err != nil {
		b.Fatal(err)
	}
	return s
}

func benchKey(i int) []byte { return fmt.Appendf(nil, "key-%08d", i) }

var benchValue = make([]byte, 256)

func benchPut(i int) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: benchKey(i), Value: benchValue}}}
}

// scatter gives numbers below n in no order.
type scatter uint64

func (x *scatter) next(n int) int {
	*x = *x*6364136223846793005 + 1442695040888963407
	return int(uint64(*x)>>33) % n
}

// BenchmarkApply is of entries of 200 puts; the time is that of one put.
func BenchmarkApply(b *testing.B) {
	for _, keys := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint("keys=", keys), func(b *testing.B) {
			s := benchStore(b, 0)
			entry := make([]*kvv1.Command, 0, 200)
			b.ReportAllocs()
			x := scatter(1)
			for b.Loop() {
				entry = append(entry, benchPut(x.next(keys)))
				if len(entry) == cap(entry) {
					s.Apply(s.Applied()+1, 1, entry)
					entry = entry[:0]
				}
			}
		})
	}
}

func BenchmarkRangePoint(b *testing.B) {
	for _, keys := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprint("keys=", keys), func(b *testing.B) {
			s := benchStore(b, keys)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				x := scatter(1)
				for pb.Next() {
					resp, err := s.Range(context.Background(), &kvv1.RangeRequest{Key: benchKey(x.next(keys))})
					if err != nil || len(resp.Kvs) != 1 {
						b.Error(resp, err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkScan reads 100,000 keys; the time is that of all.
func BenchmarkScan(b *testing.B) {
	const keys = 100_000
	s := benchStore(b, keys)
	for _, reverse := range []bool{false, true} {
		b.Run(fmt.Sprint("reverse=", reverse), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				err := s.Scan(context.Background(), &kvv1.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Reverse: reverse},
					func(_ int64, kvs []*kvv1.KeyValue) error { n += len(kvs); return nil })
				if err != nil || n != keys {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(b.N)*keys/b.Elapsed().Seconds(), "keys/s")
		})
	}
}

// BenchmarkWatch applies puts that one watcher in so many sees, or all do.
func BenchmarkWatch(b *testing.B) {
	for _, watchers := range []int{1000, 10_000} {
		for _, all := range []bool{false, true} {
			b.Run(fmt.Sprintf("watchers=%d/all=%v", watchers, all), func(b *testing.B) { benchWatch(b, watchers, all) })
		}
	}
}

func benchWatch(b *testing.B, watchers int, all bool) {
	s := benchStore(b, 0)
	open := make([]*Watcher, watchers)
	for i := range open {
		req := &kvv1.WatchRequest{Key: benchKey(i)}
		if all {
			req = &kvv1.WatchRequest{Key: []byte("key-"), RangeEnd: []byte("key.")}
		}
		w, err := s.Watch(req)
		if err != nil {
			b.Fatal(err)
		}
		open[i] = w
	}
	b.ReportAllocs()
	x := scatter(1)
	events := 0
	for b.Loop() {
		key := x.next(watchers)
		s.Apply(s.Applied()+1, 1, []*kvv1.Command{benchPut(key)})
		due := open[key : key+1]
		if all {
			due = open
		}
		for _, w := range due {
			resp, err := w.Next(context.Background())
			if err != nil || len(resp.Events) != 1 {
				b.Fatal(resp, err)
			}
			events++
		}
	}
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkWatchOpen opens and closes watchers among others while puts are
// applied.
func BenchmarkWatchOpen(b *testing.B) {
	s := benchStore(b, 0)
	for i := range 10_000 {
		if _, err := s.Watch(&kvv1.WatchRequest{Key: benchKey(i)}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		w, err := s.Watch(&kvv1.WatchRequest{Key: benchKey(5)})
		if err != nil {
			b.Fatal(err)
		}
		s.Apply(s.Applied()+1, 1, []*kvv1.Command{benchPut(6)})
		w.Close()
	}
}

// BenchmarkTenant is BenchmarkApply for the keys of a tenant: one without a quota, one with
// room, and one that has all it may have.
func BenchmarkTenant(b *testing.B) {
	const keys = 100_000
	for name, tenant := range map[string]*kvv1.Tenant{"none": nil, "free": {}, "room": {MaxKeys: 1 << 40, MaxBytes: 1 << 50}, "full": {MaxKeys: keys}} {
		b.Run(name, func(b *testing.B) {
			s := benchStore(b, keys)
			if tenant != nil {
				tenant.Name, tenant.Prefix = "t", []byte("key-")
				s.Apply(s.Applied()+1, 1, []*kvv1.Command{setTenant(tenant)})
				for {
					step, err := s.CountStep("t")
					if err != nil {
						b.Fatal(err)
					}
					if step == nil {
						break
					}
					s.Apply(s.Applied()+1, 1, []*kvv1.Command{auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_CountTenant{CountTenant: step}})})
				}
			}
			entry := make([]*kvv1.Command, 0, 200)
			b.ReportAllocs()
			x := scatter(1)
			for b.Loop() {
				entry = append(entry, benchPut(x.next(keys)))
				if len(entry) == cap(entry) {
					s.Apply(s.Applied()+1, 1, entry)
					entry = entry[:0]
				}
			}
		})
	}
}

// BenchmarkVerify is one round over a million keys, and all of its parts, as a follower
// reads them and as the master is asked for them; keys that are written in order and at
// random. The longest step bounds how long a transaction is held.
func BenchmarkVerify(b *testing.B) {
	for _, rewritten := range []int{0, 1_000_000} {
		b.Run(fmt.Sprint("rewritten=", rewritten), func(b *testing.B) {
			const keys = 1_000_000
			s, x := benchStore(b, keys), scatter(1)
			for range rewritten {
				s.Apply(s.Applied()+1, 1, []*kvv1.Command{benchPut(x.next(keys))})
			}
			if err := s.Flush(context.Background(), s.Applied()); err != nil {
				b.Fatal(err)
			}
			var longest time.Duration
			for b.Loop() {
				for round, more := s.NewRound(), true; more; {
					began := time.Now()
					var err error
					if _, more, err = round.Step(context.Background(), 256<<10); err != nil {
						b.Fatal(err)
					}
					longest = max(longest, time.Since(began))
				}
				for _, history := range []bool{false, true} {
					bounds := replication.Part{History: history}
					for more := true; more; {
						began := time.Now()
						var p replication.Part
						var err error
						if p, more, err = s.Part(context.Background(), bounds); err != nil {
							b.Fatal(err)
						}
						longest = max(longest, time.Since(began))
						bounds.From = p.To
					}
				}
			}
			b.ReportMetric(longest.Seconds()*1000, "longest-ms")
		})
	}
}
