package etcd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// used is what clients hold of what the pod has only so much of, by its name.
func (s *solo) used(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "baton_bound_used" {
			continue
		}
		for _, metric := range family.GetMetric() {
			if what := metric.GetLabel()[0].GetValue(); what != "leases" && metric.GetGauge().GetValue() != 0 {
				used[what] = metric.GetGauge().GetValue()
			}
		}
	}
	return used
}

// Whatever becomes of calls, streams and connections, in the end nothing counts as held
// by them: else clients would be refused some day, and for ever.
func TestNothingStaysCounted(t *testing.T) {
	s := newSolo(t)
	for i := range 200 {
		s.put(t, fmt.Sprintf("k%03d", i), strings.Repeat("v", 10_000))
	}
	target := s.conn.Target()
	_ = s.conn.Close()
	var all sync.WaitGroup
	for c := range 16 {
		all.Go(func() { misuse(t, target, rand.New(rand.NewPCG(1, uint64(c)))) })
	}
	all.Wait()
	for begun := time.Now(); len(s.used(t)) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("these are still held: %v", s.used(t))
		}
	}
}

// misuse makes calls that end in all sorts of ways, over connections that do, too.
func misuse(t *testing.T, target string, r *rand.Rand) {
	for range 6 {
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Error(err)
			return
		}
		var calls sync.WaitGroup
		for range 25 {
			kind, patience := r.IntN(8), time.Duration(r.IntN(30_000))*time.Microsecond
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				misuseOnce(ctx, conn, kind)
			})
		}
		if r.IntN(2) == 0 {
			calls.Wait()
		}
		_ = conn.Close()
		calls.Wait()
	}
}

// misuseOnce makes one call, and reads none or some of its answers.
func misuseOnce(ctx context.Context, conn *grpc.ClientConn, kind int) {
	everything := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	kv, unread := pb.NewKVClient(conn), func(stream grpc.ClientStream, err error) {
		if err == nil {
			_ = stream.RecvMsg(&pb.RangeStreamResponse{})
			<-ctx.Done()
		}
	}
	switch kind {
	case 0:
		_, _ = kv.Range(ctx, everything)
	case 1:
		everything.SortTarget, everything.SortOrder = pb.RangeRequest_VALUE, pb.RangeRequest_DESCEND
		_, _ = kv.Range(ctx, everything)
	case 2:
		_, _ = kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 1<<20)})
	case 3:
		unread(kv.RangeStream(ctx, everything))
	case 4:
		stream, err := pb.NewWatchClient(conn).Watch(ctx)
		for i := 0; err == nil && i < 20; i++ {
			err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 1}}})
		}
		unread(stream, err)
	case 5:
		unread(pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{}))
	case 6:
		unread(kvv1.NewWatchServiceClient(conn).Watch(ctx, &kvv1.WatchRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 1}))
	case 7:
		_, _ = kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{get(everything), put([]byte("t"), nil, 77)}, Failure: []*pb.RequestOp{get(everything)}})
	}
}
