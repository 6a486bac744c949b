package etcd

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/batondb/baton/server"
)

// A new stream that needs a leader waits for the end of an election.
func TestNewStreamWaitsForLeader(t *testing.T) {
	s := newSolo(t)
	s.log.setMaster("")
	time.AfterFunc(200*time.Millisecond, func() { s.log.setMaster("kv-0") })
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	watch, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}); err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || !r.GetCreated() {
		t.Fatal(r, err)
	}
}

// A pod that has no data yet sends etcd's clients elsewhere, whatever they ask.
func TestNotReady(t *testing.T) {
	pod := server.New(server.Options{Name: "kv-0"})
	pod.Register(Register)
	client := listen(t)
	pod.Start(client, listen(t))
	t.Cleanup(func() { pod.Stop(t.Context()) })
	conn, err := grpc.NewClient(client.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	watch, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, watched := watch.Recv()
	_, put := pb.NewKVClient(conn).Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
	_, status := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	_, members := pb.NewClusterClient(conn).MemberList(t.Context(), &pb.MemberListRequest{})
	for _, got := range []error{watched, put, status, members} {
		if !is(got, errElsewhere) {
			t.Errorf("%v", got)
		}
	}
}
