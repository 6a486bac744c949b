package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/sleep"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

const (
	notReady = kvv1.ErrorReason_ERROR_REASON_NOT_READY
	noMaster = kvv1.ErrorReason_ERROR_REASON_NO_MASTER
)

func TestPut(t *testing.T) {
	p := newPod(t, "kv-0").use()
	response, err := p.kv().Put(within5s(t), &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")})
	if err != nil {
		t.Fatal(err)
	}
	if h := response.GetHeader(); h.GetPod() != "kv-0" || h.GetRevision() != p.store.Revision() {
		t.Errorf("header %v", h)
	}
	_, err = p.kv().Put(within5s(t), &kvv1.PutRequest{})
	wantReason(t, err, invalid)
}

// A pod answers from its first moment, with the reason why it does not serve.
func TestBeforeThereIsAnything(t *testing.T) {
	p := newPod(t, "kv-0")
	_, err := p.kv().Range(within5s(t), &kvv1.RangeRequest{Key: []byte("k")})
	wantReason(t, err, notReady)
	response, err := kvv1.NewClusterServiceClient(p.conn).Status(within5s(t), &kvv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if pods := response.GetPods(); len(pods) != 1 || pods[0].GetReady() || pods[0].GetNotReadyBecause() == "" {
		t.Errorf("%v", response)
	}
	p.log.setMaster("")
	p.UseLog(p.log)
	_, err = p.kv().Put(within5s(t), &kvv1.PutRequest{Key: []byte("k")})
	if got := wantReason(t, err, notReady); got["because"] != "no master is known" {
		t.Error(got)
	}
}

// A request that came without a deadline gets one.
func TestDefaultDeadline(t *testing.T) {
	p := newPod(t, "kv-0").use()
	if _, err := p.kv().Range(context.Background(), &kvv1.RangeRequest{Key: []byte("k")}); err != nil {
		t.Fatal(err)
	}
	if d := p.log.deadline; d <= 0 || d > defaultDeadline {
		t.Errorf("deadline %v", d)
	}
	p.log.propose = func(ctx context.Context, _ *kvv1.Command) (*kvv1.Result, error) {
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) <= 0 || time.Until(deadline) > defaultDeadline {
			t.Errorf("a put's deadline %v", deadline)
		}
		return &kvv1.Result{Result: &kvv1.Result_Put{Put: &kvv1.PutResponse{}}}, nil
	}
	for range 2 {
		if _, err := p.kv().Put(context.Background(), &kvv1.PutRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReads(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.log.readErr = replication.ErrNoMaster
	readWithin := func(patience time.Duration, o *kvv1.ReadOptions) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := p.kv().Range(ctx, &kvv1.RangeRequest{Key: []byte("k"), Read: o})
		return err
	}
	read := func(o *kvv1.ReadOptions) error { return readWithin(5*time.Second, o) }
	wantReason(t, read(nil), noMaster)
	wantReason(t, read(&kvv1.ReadOptions{Consistency: kvv1.Consistency_CONSISTENCY_BOUNDED, MaxStalenessMs: 1}), noMaster)
	local := &kvv1.ReadOptions{Consistency: kvv1.Consistency_CONSISTENCY_LOCAL}
	if err := read(local); err != nil {
		t.Error(err)
	}
	local.MinRevision = p.store.Revision()
	if err := read(local); err != nil {
		t.Error(err)
	}
	local.MinRevision++
	if err := readWithin(50*time.Millisecond, local); status.Code(err) != codes.DeadlineExceeded {
		t.Error("a revision that does not come:", err)
	}
}

func TestRefusedByTheStore(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.log.propose = func(context.Context, *kvv1.Command) (*kvv1.Result, error) {
		return &kvv1.Result{Result: &kvv1.Result_Error{Error: &kvv1.Error{Reason: kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND, Message: "m"}}}, nil
	}
	_, err := p.kv().Put(within5s(t), &kvv1.PutRequest{Key: []byte("k"), Lease: 3})
	wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND)
}

// Lists overtake each other, at most maxBatchesInFlight at once; a bad one does
// not touch the others.
func TestBatch(t *testing.T) {
	p := newPod(t, "kv-0").use()
	release, begun := make(chan struct{}), make(chan struct{}, 1000)
	p.log.propose = func(context.Context, *kvv1.Command) (*kvv1.Result, error) {
		begun <- struct{}{}
		<-release
		return &kvv1.Result{Result: &kvv1.Result_Batch{Batch: &kvv1.WriteBatchResult{}}}, nil
	}
	stream, err := p.kv().Batch(within5s(t))
	if err != nil {
		t.Fatal(err)
	}
	const lists = maxBatchesInFlight + 10
	for id := range uint64(lists) {
		if err := stream.Send(&kvv1.BatchRequest{Id: id, Batch: batchOf(1, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Send(&kvv1.BatchRequest{Id: lists}); err != nil {
		t.Fatal(err)
	}
	await(t, "as many as may be in flight", func() bool { return len(begun) == maxBatchesInFlight })
	close(release)
	seen := map[uint64]bool{}
	for range lists + 1 {
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		seen[response.GetId()] = true
		if bad := response.GetError(); (bad != nil) != (response.GetId() == lists) {
			t.Errorf("%v", response)
		}
	}
	if len(seen) != lists+1 {
		t.Errorf("%d answers", len(seen))
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// Streams end with NOT_READY when the pod stops; what is in flight is answered.
func TestStopEndsStreams(t *testing.T) {
	p := newPod(t, "kv-0").use()
	watch, err := kvv1.NewWatchServiceClient(p.conn).Watch(within5s(t), &kvv1.WatchRequest{Key: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	batch, err := p.kv().Batch(within5s(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := batch.Send(&kvv1.BatchRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := batch.Recv(); err != nil {
		t.Fatal(err)
	}
	healthy, err := grpc_health_v1.NewHealthClient(p.conn).Watch(within5s(t), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := healthy.Recv(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	p.Stop(within5s(t))
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("stopping took %s", took)
	}
	_, err = watch.Recv()
	wantReason(t, err, notReady)
	_, err = batch.Recv()
	wantReason(t, err, notReady)
}

func TestWatch(t *testing.T) {
	p := newPod(t, "kv-0").use()
	watch, err := kvv1.NewWatchServiceClient(p.conn).Watch(within5s(t), &kvv1.WatchRequest{Key: []byte("k"), ProgressIntervalMs: 100})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *kvv1.WatchResponse {
		t.Helper()
		response, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if response.GetHeader().GetPod() != "kv-0" {
			t.Errorf("%v", response)
		}
		return response
	}
	if first := next(); len(first.GetEvents()) != 0 || first.GetHeader().GetRevision() != p.store.Revision() || first.GetClusterId() != "cluster" {
		t.Errorf("first %v", first)
	}
	if quiet := next(); len(quiet.GetEvents()) != 0 || quiet.GetHeader().GetRevision() != p.store.Revision() {
		t.Errorf("progress %v", quiet)
	}
	p.store.put("v")
	if got := next(); len(got.GetEvents()) != 1 {
		t.Errorf("events %v", got)
	}
	if err := p.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = watch.Recv()
	wantReason(t, err, notReady)
}

// Revisions of another cluster say nothing here.
func TestOtherCluster(t *testing.T) {
	p := newPod(t, "kv-0").use()
	for id, want := range map[string]codes.Code{"": codes.OK, "cluster": codes.OK, "restored": codes.FailedPrecondition} {
		watch, err := kvv1.NewWatchServiceClient(p.conn).Watch(within5s(t), &kvv1.WatchRequest{Key: []byte("k"), ClusterId: id})
		if err != nil {
			t.Fatal(err)
		}
		_, watched := watch.Recv()
		read := &kvv1.RangeRequest{Key: []byte("k"), Read: &kvv1.ReadOptions{ClusterId: id}}
		_, ranged := p.kv().Range(within5s(t), read)
		scan, err := p.kv().Scan(within5s(t), &kvv1.ScanRequest{Range: read})
		if err != nil {
			t.Fatal(err)
		}
		_, scanned := scan.Recv()
		for _, err := range []error{watched, ranged, scanned} {
			if status.Code(err) != want {
				t.Errorf("asked for %q: %v", id, err)
			}
			if want != codes.OK && wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_OTHER_CLUSTER)["cluster_id"] != "cluster" {
				t.Errorf("asked for %q: %v", id, err)
			}
		}
	}
}

// One caller with all the watches that it can get leaves some to others.
func TestTooManyWatches(t *testing.T) {
	s := &watchService{core: testCore()}
	s.core.store.Store(newStore(t).Store)
	req := &kvv1.WatchRequest{Key: []byte("k")}
	greedy, other := callFrom(t, "10.0.0.1"), callFrom(t, "10.0.0.2")
	for range maxWatches / 2 {
		watch, err := s.core.watch(greedy, req)
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Close()
	}
	for range 2 { // What is refused is not counted.
		err := s.Watch(req, &fakeWatchStream{ctx: greedy})
		wantReason(t, s.core.statusOf(err), kvv1.ErrorReason_ERROR_REASON_TOO_MANY)
		if err == nil || !strings.Contains(err.Error(), "10.0.0.1, who has 5000 of this pod's 10000 watches") {
			t.Error(err)
		}
	}
	watch, err := s.core.watch(other, req)
	if err != nil {
		t.Fatal(err)
	}
	watch.Close()
}

// callFrom is the context of a call from an address.
func callFrom(t *testing.T, ip string) context.Context {
	return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 5}})
}

func TestSnapshotAndHash(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.store.put(strings.Repeat("v", SnapshotChunkBytes))
	c := kvv1.NewMaintenanceServiceClient(p.conn)
	stream, err := c.Snapshot(within5s(t), &kvv1.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got, total int64
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got, total = got+int64(len(response.GetChunk())), response.GetTotalBytes()
	}
	if got != total || got < SnapshotChunkBytes {
		t.Errorf("%d of %d bytes", got, total)
	}
	hash, err := c.Hash(within5s(t), &kvv1.HashRequest{})
	if revision, want, _ := p.store.Hash(0); err != nil || hash.GetHash() != want || hash.GetRevision() != revision {
		t.Error(hash, err)
	}
}

func TestGrantChoosesAnID(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.log.propose = func(_ context.Context, c *kvv1.Command) (*kvv1.Result, error) {
		g := c.GetGrant()
		return &kvv1.Result{Result: &kvv1.Result_Grant{Grant: &kvv1.GrantResponse{Id: g.GetId(), TtlSeconds: g.GetTtlSeconds()}}}, nil
	}
	response, err := kvv1.NewLeaseServiceClient(p.conn).Grant(within5s(t), &kvv1.GrantRequest{TtlSeconds: 3})
	if err != nil || response.GetId() < 1 {
		t.Fatal(response, err)
	}
}

func TestHealthFollowsReadiness(t *testing.T) {
	p := newPod(t, "kv-0")
	serving := func() bool {
		r, err := grpc_health_v1.NewHealthClient(p.conn).Check(within5s(t), &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
	}
	if serving() {
		t.Error("serves before there is anything")
	}
	p.use()
	await(t, "serving", serving)
	p.log.setMaster("")
	await(t, "not serving without a master", func() bool { return !serving() })
	p.log.setMaster("kv-0")
	await(t, "serving again", serving)
	p.Drain()
	if serving() {
		t.Error("serves while it drains")
	}
	if because := strings.Join(p.readiness.because(), ";"); !strings.Contains(because, "stopping") {
		t.Error(because)
	}
}

// A small transaction over many keys would stop every other write for its time. It
// is refused, and says what to do; the same over few keys is not.
func TestTransactionOverTooManyKeys(t *testing.T) {
	p := newPod(t, "kv-0").use()
	for i := range maxTxnKeys/100 + 1 {
		p.store.apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: fmt.Appendf(nil, "k/%05d", i)}}})
	}
	count := &kvv1.Op{Op: &kvv1.Op_Range{Range: &kvv1.RangeRequest{Key: []byte("k/"), RangeEnd: []byte("k0"), CountOnly: true}}}
	txn := &kvv1.TxnRequest{Success: slices.Repeat([]*kvv1.Op{count}, 100)}
	_, err := p.kv().Txn(within5s(t), txn)
	if got := wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_TOO_LARGE); got["limit"] != "20000" || !strings.Contains(err.Error(), "split it") {
		t.Error(got, err)
	}
	txn.Success = txn.Success[1:]
	if _, err := p.kv().Txn(within5s(t), txn); err != nil {
		t.Error(err)
	}
}

// A snapshot that nobody reads ends, and gives the pages that it holds back; one that
// is read slowly goes on.
func TestUnreadSnapshotEnds(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.core.bounds.reading.patience = 700 * time.Millisecond
	for range 16 {
		p.store.put(strings.Repeat("v", 1<<20))
	}
	c := kvv1.NewMaintenanceServiceClient(p.conn)
	unread, err := c.Snapshot(within5s(t), &kvv1.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	slow, err := c.Snapshot(within5s(t), &kvv1.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	begin, read := time.Now(), 0
	for err == nil {
		if _, err = slow.Recv(); err == nil {
			read++
			sleep.For(t.Context(), 30*time.Millisecond)
		}
	}
	if !errors.Is(err, io.EOF) || time.Since(begin) < 2*p.core.bounds.reading.patience {
		t.Errorf("read slowly: %v, %d parts, %s", err, read, time.Since(begin))
	}
	for err = nil; err == nil; _, err = unread.Recv() {
	}
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "has read nothing") {
		t.Error("read too late:", err)
	}
}
