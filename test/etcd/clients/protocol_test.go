package clients

import (
	"context"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/batondb/baton/test/etcd/servers"
)

// script notes every answer to the same calls on one system.
type script struct {
	t     *testing.T
	ctx   context.Context
	conn  *grpc.ClientConn
	lines []string
	texts bool // Only the texts of errors count.
	etcd  bool // It is the real one.
}

// note takes an answer, without what must differ.
func (s *script) note(answer proto.Message, err error) {
	switch {
	case err != nil && s.texts:
		s.lines = append(s.lines, status.Convert(err).Message())
		return
	case err != nil:
		s.lines = append(s.lines, err.Error())
		return
	}
	answer = proto.Clone(answer)
	if header, ok := answer.ProtoReflect().Interface().(interface{ GetHeader() *pb.ResponseHeader }); ok && header.GetHeader() != nil {
		for _, name := range []protoreflect.Name{"cluster_id", "member_id", "raft_term"} {
			reflected := header.GetHeader().ProtoReflect()
			field := reflected.Descriptor().Fields().ByName(name)
			if !reflected.Has(field) {
				s.lines = append(s.lines, "a header without "+string(name))
			}
			reflected.Clear(field)
		}
	}
	s.lines = append(s.lines, strings.Join(strings.Fields(fmt.Sprintf("%T %v", answer, answer)), " "))
}

// watches is a stream whose answers are noted one by one.
type watches struct {
	*script
	stream pb.Watch_WatchClient
}

func (w watches) ask(req *pb.WatchRequest, answers int) {
	w.t.Helper()
	if err := w.stream.Send(req); err != nil {
		w.t.Fatal(err)
	}
	w.take(answers)
}

func (w watches) take(answers int) {
	w.t.Helper()
	for range answers {
		r, err := w.stream.Recv()
		if err != nil {
			w.t.Fatal(err, w.lines)
		}
		w.note(r, nil)
	}
}

func (w watches) create(req *pb.WatchCreateRequest, answers int) {
	w.t.Helper()
	w.ask(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}}, answers)
}

func (w watches) cancel(id int64, answers int) {
	w.t.Helper()
	w.ask(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}, answers)
}

func (w watches) progress(answers int) {
	w.t.Helper()
	w.ask(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}, answers)
}

func (s *script) watch() {
	kv := pb.NewKVClient(s.conn)
	stream, err := pb.NewWatchClient(s.conn).Watch(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	w := watches{s, stream}
	put := func(key, value string) {
		s.note(kv.Put(s.ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)}))
	}
	w.progress(0)
	for i := range 4 {
		put("a", fmt.Sprint(i))
	}
	w.create(&pb.WatchCreateRequest{Key: []byte("a")}, 1)
	w.progress(1)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("c"), PrevKv: true, WatchId: 7}, 1)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7}, 1)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: -3}, 1)
	w.create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("b")}, 1)
	w.create(&pb.WatchCreateRequest{Key: []byte("b"), StartRevision: -1, WatchId: 9}, 1)
	w.create(nil, 1)
	w.cancel(1, 1)
	w.create(&pb.WatchCreateRequest{WatchId: 1, Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 4, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT, 5}}, 1)
	w.create(&pb.WatchCreateRequest{Key: []byte("z")}, 1) // Which id is free?
	w.cancel(7, 1)
	w.cancel(7, 0)
	w.cancel(-3, 1)
	w.cancel(0, 1)
	w.cancel(100, 0)
	s.note(kv.DeleteRange(s.ctx, &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}))
	w.take(1)
	s.note(kv.Compact(s.ctx, &pb.CompactionRequest{Revision: 4}))
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3}, 2)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 4, WatchId: 20, PrevKv: true}, 2)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 8, WatchId: 21}, 1)
	put("a", "too early")
	w.take(1)
	put("a", "just in time")
	w.cancel(20, 0)
	if err := stream.CloseSend(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) leases() {
	leases, kv := pb.NewLeaseClient(s.conn), pb.NewKVClient(s.conn)
	for _, grant := range []*pb.LeaseGrantRequest{{ID: 1, TTL: -5}, {ID: 2}, {ID: 3, TTL: 2}, {ID: 4, TTL: 9_000_000_000}, {ID: 5, TTL: 9_000_000_001}, {ID: 1, TTL: 60}} {
		s.note(leases.LeaseGrant(s.ctx, grant))
	}
	s.note(kv.Put(s.ctx, &pb.PutRequest{Key: []byte("leased"), Lease: 4}))
	s.note(kv.Put(s.ctx, &pb.PutRequest{Key: []byte("leased"), Lease: 99}))
	alive, err := leases.LeaseKeepAlive(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, id := range []int64{4, 99, 0, -1} {
		if err := alive.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			s.t.Fatal(err)
		}
		s.note(alive.Recv())
		r, err := leases.LeaseTimeToLive(s.ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		if r.GetTTL() > 0 {
			r.TTL = 1 // Time passes.
		}
		s.note(r, err)
	}
	for _, id := range []int64{4, 4, 0, -1} {
		s.note(leases.LeaseRevoke(s.ctx, &pb.LeaseRevokeRequest{ID: id}))
	}
}

func (s *script) elections() {
	s.texts = true // etcd has no code but Unknown here.
	leases := pb.NewLeaseClient(s.conn)
	elections, locks := v3electionpb.NewElectionClient(s.conn), v3lockpb.NewLockClient(s.conn)
	s.note(leases.LeaseGrant(s.ctx, &pb.LeaseGrantRequest{ID: 70, TTL: 600}))
	s.note(elections.Leader(s.ctx, &v3electionpb.LeaderRequest{Name: []byte("e")}))
	one, err := elections.Campaign(s.ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: 70, Value: []byte("one")})
	s.note(one, err)
	again, err := elections.Campaign(s.ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: 70, Value: []byte("uno")})
	again.GetHeader().Revision = 0 // etcd's is of before the new value.
	s.note(again, err)
	s.note(elections.Campaign(s.ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: 71, Value: []byte("none")}))
	s.note(elections.Proclaim(s.ctx, &v3electionpb.ProclaimRequest{Leader: one.GetLeader(), Value: []byte("I")}))
	s.note(elections.Leader(s.ctx, &v3electionpb.LeaderRequest{Name: []byte("e")}))
	s.note(elections.Resign(s.ctx, &v3electionpb.ResignRequest{Leader: one.GetLeader()}))
	s.note(elections.Resign(s.ctx, &v3electionpb.ResignRequest{Leader: one.GetLeader()}))
	s.note(elections.Proclaim(s.ctx, &v3electionpb.ProclaimRequest{Leader: one.GetLeader(), Value: []byte("I")}))
	s.note(elections.Proclaim(s.ctx, &v3electionpb.ProclaimRequest{}))
	s.note(elections.Resign(s.ctx, &v3electionpb.ResignRequest{}))
	held, err := locks.Lock(s.ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: 70})
	s.note(held, err)
	// Repeated, Baton writes the key again, so that the end of the first call leaves
	// it; etcd catches up by another write.
	held, err = locks.Lock(s.ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: 70})
	if s.etcd {
		if _, err := pb.NewKVClient(s.conn).Put(s.ctx, &pb.PutRequest{Key: []byte("even")}); err != nil {
			s.t.Fatal(err)
		}
		held.GetHeader().Revision++
	}
	s.note(held, err)
	s.note(locks.Lock(s.ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: 71}))
	s.note(locks.Unlock(s.ctx, &v3lockpb.UnlockRequest{Key: held.GetKey()}))
	s.note(locks.Unlock(s.ctx, &v3lockpb.UnlockRequest{Key: held.GetKey()}))
	s.note(locks.Unlock(s.ctx, &v3lockpb.UnlockRequest{}))
}

// The corners of the protocol are answered as etcd does, field by field.
func TestProtocol(t *testing.T) {
	etcd, baton := &script{t: t, etcd: true, conn: servers.Etcd(t).Pods[0].Conn()}, &script{t: t, conn: servers.Baton(t, 1).Pods[0].Conn()}
	for _, s := range []*script{etcd, baton} {
		s.ctx = limited(t)
		s.watch()
		s.leases()
		s.elections()
	}
	if len(etcd.lines) != len(baton.lines) {
		t.Fatalf("etcd has %d answers, Baton %d", len(etcd.lines), len(baton.lines))
	}
	for i := range etcd.lines {
		if etcd.lines[i] != baton.lines[i] {
			t.Errorf("etcd  %s\nbaton %s", etcd.lines[i], baton.lines[i])
		}
	}
}
