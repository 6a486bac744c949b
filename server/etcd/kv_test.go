package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

func keysOf(response *pb.RangeResponse) string {
	var all string
	for _, kv := range response.GetKvs() {
		all += string(kv.GetKey()) + " "
	}
	return all
}

// The keys are a to e, written at the revisions 2 to 6, and c again at 7.
func TestRange(t *testing.T) {
	k := newLocalKV(t)
	k.put(t, "a", "b", "c", "d", "e", "c")
	all := func(change func(r *pb.RangeRequest)) *pb.RangeRequest {
		r := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}
		change(r)
		return r
	}
	for _, c := range []struct {
		name  string
		req   *pb.RangeRequest
		keys  string
		count int64
		more  bool
	}{
		{"all", all(func(*pb.RangeRequest) {}), "a b c d e ", 5, false},
		{"one key", &pb.RangeRequest{Key: []byte("c")}, "c ", 1, false},
		{"no key", &pb.RangeRequest{Key: []byte("x")}, "", 0, false},
		{"empty range", &pb.RangeRequest{Key: []byte("c"), RangeEnd: []byte("b")}, "", 0, false},
		{"limit", all(func(r *pb.RangeRequest) { r.Limit = 2 }), "a b ", 5, true},
		{"limit of all", all(func(r *pb.RangeRequest) { r.Limit = 5 }), "a b c d e ", 5, false},
		{"count", all(func(r *pb.RangeRequest) { r.CountOnly, r.Limit = true, 2 }), "", 5, false},
		{"old revision", all(func(r *pb.RangeRequest) { r.Revision = 3 }), "a b ", 2, false},
		{"descending", all(func(r *pb.RangeRequest) { r.SortOrder, r.Limit = pb.RangeRequest_DESCEND, 2 }), "e d ", 5, true},
		{"descending to the first key", &pb.RangeRequest{
			Key: []byte{0}, RangeEnd: []byte("c"), SortOrder: pb.RangeRequest_DESCEND, Limit: 1,
		}, "b ", 2, true},
		{"last modified", all(func(r *pb.RangeRequest) {
			r.SortOrder, r.SortTarget, r.Limit = pb.RangeRequest_DESCEND, pb.RangeRequest_MOD, 1
		}), "c ", 5, true},
		{"sorted without an order, cut off before", all(func(r *pb.RangeRequest) {
			r.SortTarget, r.Limit = pb.RangeRequest_MOD, 3
		}), "a b d ", 5, true},
		{"filtered, the count is of all", all(func(r *pb.RangeRequest) { r.MinModRevision, r.Limit = 5, 2 }), "c d ", 5, true},
		{"filtered by creation", all(func(r *pb.RangeRequest) { r.MinCreateRevision, r.MaxCreateRevision = 3, 4 }), "b c ", 5, false},
	} {
		r, err := k.Range(t.Context(), c.req)
		if err != nil || keysOf(r) != c.keys || r.GetCount() != c.count || r.GetMore() != c.more || r.GetHeader().GetRevision() != 7 {
			t.Errorf("%s: %v, %v", c.name, r, err)
		}
	}
	r, err := k.Range(t.Context(), &pb.RangeRequest{Key: []byte("c"), KeysOnly: true})
	if err != nil || r.GetKvs()[0].GetValue() != nil || r.GetKvs()[0].GetVersion() != 2 {
		t.Errorf("keys only: %v, %v", r, err)
	}
}

// looking is a context that lets something happen whenever a read looks whether it
// has ended.
type looking struct {
	context.Context
	look func()
}

func (c looking) Err() error {
	c.look()
	return c.Context.Err()
}

// A long range is read in parts, and one that a compaction overtakes anew.
func TestRangeOvertaken(t *testing.T) {
	k := newLocalKV(t)
	const keys = store.MaxPageKeys + 500
	for i := range keys {
		k.put(t, fmt.Sprintf("k%05d", i))
	}
	r, err := k.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: 15})
	if err != nil || len(r.GetKvs()) != 15 || r.GetCount() != keys || !r.GetMore() {
		t.Fatalf("%d keys of %d, %v", len(r.GetKvs()), r.GetCount(), err)
	}
	overtaken := 0
	compacts := looking{t.Context(), func() {
		if overtaken++; overtaken <= 3 {
			k.put(t, "k-new")
			revision := k.store.Revision()
			if _, err := k.Compact(t.Context(), &pb.CompactionRequest{Revision: revision}); err != nil {
				t.Error(err)
			}
		}
	}}
	answer, err := k.Txn(compacts, &pb.TxnRequest{Success: []*pb.RequestOp{opRange("k", "l")}})
	if err != nil || answer.GetResponses()[0].GetResponseRange().GetCount() != keys+1 || overtaken < 4 {
		t.Errorf("after %d looks: %v", overtaken, err)
	}
}

func TestRangeStream(t *testing.T) {
	k := newLocalKV(t)
	value := bytes.Repeat([]byte("v"), 100<<10)
	for i := range 20 {
		if _, err := k.Put(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "k%02d", i), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int64{0, 7, 20, 30} {
		out := &parts{ctx: t.Context()}
		if err := k.RangeStream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: limit}, out); err != nil {
			t.Fatal(err)
		}
		kvs := 0
		for i, part := range out.all {
			kvs += len(part.GetKvs())
			if last := i == len(out.all)-1; last != (part.GetHeader() != nil) {
				t.Errorf("part %d of %d has the header %v", i, len(out.all), part.GetHeader())
			}
		}
		last := out.all[len(out.all)-1]
		want := 20
		if limit > 0 && limit < 20 {
			want = int(limit)
		}
		if kvs != want || last.GetCount() != 20 || last.GetMore() != (want < 20) || last.GetHeader().GetRevision() != 21 || len(out.all) < 2 {
			t.Errorf("limit %d: %d keys in %d parts, count %d", limit, kvs, len(out.all), last.GetCount())
		}
	}
	sorted := &pb.RangeRequest{Key: []byte("k"), SortOrder: pb.RangeRequest_DESCEND}
	if err := k.RangeStream(sorted, &parts{ctx: t.Context()}); err == nil {
		t.Error("a sorted stream is not refused")
	}
}

func TestWriteErrors(t *testing.T) {
	k := newLocalKV(t)
	k.put(t, "a")
	long := bytes.Repeat([]byte("k"), server.MaxKeyBytes+1)
	put := func(r *pb.PutRequest) error { _, err := k.Put(t.Context(), r); return err }
	compact := func(revision int64) error {
		_, err := k.Compact(t.Context(), &pb.CompactionRequest{Revision: revision})
		return err
	}
	_, deleteErr := k.DeleteRange(t.Context(), &pb.DeleteRangeRequest{})
	for _, c := range []struct {
		name      string
		got, want error
	}{
		{"put without a key", put(&pb.PutRequest{}), rpctypes.ErrGRPCEmptyKey},
		{"delete without a key", deleteErr, rpctypes.ErrGRPCEmptyKey},
		{"ignored value", put(&pb.PutRequest{Key: []byte("a"), IgnoreValue: true, Value: []byte("v")}), rpctypes.ErrGRPCValueProvided},
		{"ignored lease", put(&pb.PutRequest{Key: []byte("a"), IgnoreLease: true, Lease: 1}), rpctypes.ErrGRPCLeaseProvided},
		{"no lease", put(&pb.PutRequest{Key: []byte("a"), Lease: 1}), rpctypes.ErrGRPCLeaseNotFound},
		{"nothing to keep", put(&pb.PutRequest{Key: []byte("b"), IgnoreValue: true}), rpctypes.ErrGRPCKeyNotFound},
		{"long key", put(&pb.PutRequest{Key: long}), rpctypes.ErrGRPCRequestTooLarge},
		{"longest key", put(&pb.PutRequest{Key: long[1:]}), nil},
		{"large value", put(&pb.PutRequest{Key: []byte("a"), Value: make([]byte, server.MaxValueBytes)}), rpctypes.ErrGRPCRequestTooLarge},
		{"largest value", put(&pb.PutRequest{Key: []byte("a"), Value: make([]byte, server.MaxValueBytes-40)}), nil},
		{"compaction of the future", compact(99), rpctypes.ErrGRPCFutureRev},
		{"compaction", compact(3), nil},
		{"compaction again", compact(3), rpctypes.ErrGRPCCompacted},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
	if revision := k.store.Status().Revision; revision != 4 {
		t.Errorf("the revision is %d", revision)
	}
}

// What a deletion has removed is read afterwards, however much it is.
func TestDeletePreviousValues(t *testing.T) {
	k := newLocalKV(t)
	for _, key := range []string{"a", "b", "c"} {
		if _, err := k.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: make([]byte, 1<<20)}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := k.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), PrevKv: true})
	if err != nil || len(r.GetPrevKvs()) != 3 || r.GetDeleted() != 3 || r.GetHeader().GetRevision() != 5 {
		t.Errorf("%d of %d, %v", len(r.GetPrevKvs()), r.GetDeleted(), err)
	}
	r, err = k.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), PrevKv: true})
	if err != nil || len(r.GetPrevKvs()) != 0 || r.GetHeader().GetRevision() != 5 {
		t.Errorf("again: %v, %v", r, err)
	}
}

// A physical compaction returns when the pod's file has nothing left of it.
func TestCompactPhysical(t *testing.T) {
	k := newLocalKV(t)
	for i := range 20_000 {
		k.put(t, fmt.Sprint("key ", i%10))
	}
	newest := k.store.Revision()
	if _, err := k.Compact(t.Context(), &pb.CompactionRequest{Revision: newest, Physical: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if err := k.store.WaitScrubbed(ctx, newest); err != nil {
		t.Errorf("it was not done: %v", err)
	}
	k.put(t, "one more")
	if _, err := k.Compact(ctx, &pb.CompactionRequest{Revision: newest + 1, Physical: true}); !errors.Is(err, rpctypes.ErrGRPCTimeout) {
		t.Errorf("not in time: %v", err)
	}
}

// Only what was not applied may look like it.
func TestUnknownOutcome(t *testing.T) {
	k := newLocalKV(t)
	k.log.outcome = replication.ErrUnknown
	if _, err := k.Put(t.Context(), &pb.PutRequest{Key: []byte("a")}); !errors.Is(err, rpctypes.ErrGRPCTimeoutDueToLeaderFail) {
		t.Errorf("unknown outcome: %v", err)
	}
	k.log.outcome = replication.ErrNoMaster
	if _, err := k.Put(t.Context(), &pb.PutRequest{Key: []byte("a")}); !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
		t.Errorf("no master: %v", err)
	}
}
