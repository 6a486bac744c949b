package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// opsLog is that of the master of two pods; a third clones.
type opsLog struct {
	server.Log
	master atomic.Value // A string.
	behind string       // Why it is not ready.
	server *server.Server
}

var opsMembers = []replication.Member{
	{ID: "kv-0/a", Pod: "kv-0", Voter: true, Address: "host-0:7401"},
	{ID: "kv-1/b", Pod: "kv-1", Voter: true, Address: "host-1:7401"},
	{ID: "kv-2/c", Pod: "kv-2", Ordinal: 2},
}

func (l *opsLog) LinearizableRead(context.Context) error    { return nil }
func (l *opsLog) PeerConn(string) (*grpc.ClientConn, error) { return nil, errors.New("not there") }
func (l *opsLog) IsMaster() bool                            { return l.master.Load() == "kv-0" }
func (l *opsLog) Master() (string, bool)                    { return l.master.Load().(string), true }
func (l *opsLog) Members() []replication.Member             { return opsMembers }
func (l *opsLog) Joining() []string                         { return nil }
func (l *opsLog) ClusterID() string                         { return "cluster" }
func (l *opsLog) MemberID() replication.MemberID            { return "kv-0/a" }
func (l *opsLog) Term() uint64                              { return 3 }
func (l *opsLog) MasterChanged() <-chan struct{}            { return nil }

func (l *opsLog) HandOver(_ context.Context, to string) (string, error) {
	l.master.Store(to)
	return to, nil
}

func (l *opsLog) Status() replication.Status {
	return replication.Status{Master: l.master.Load().(string), Term: 3, Commit: 12, Applied: 11, Because: l.behind}
}

func (l *opsLog) PodStatus(context.Context) *kvv1.PodStatus {
	s := &kvv1.PodStatus{Name: "kv-0", MemberId: "kv-0/a"}
	l.server.CompleteStatus(s)
	return s
}

// opsPod is a pod with the volume's free space, and a connection to it.
func opsPod(t *testing.T, free uint64) (*grpc.ClientConn, *store.Store) {
	t.Helper()
	return opsPodOf(t, &opsLog{}, free)
}

func opsPodOf(t *testing.T, log *opsLog, free uint64) (*grpc.ClientConn, *store.Store) {
	t.Helper()
	s := server.New(server.Options{
		Name: "kv-0", ClientAddress: "host-0:7400",
		Space: func() (server.Space, error) { return server.Space{Free: free, Total: 100 << 30}, nil },
	})
	s.Register(Register)
	client, web := listen(t), listen(t)
	log.server = s
	log.master.Store("kv-0")
	s.UseLog(log)
	st, err := store.Open(store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s.UseStore(st)
	s.Start(client, web)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Stop(ctx)
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(client.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, st
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestStatus(t *testing.T) {
	conn, st := opsPod(t, 50<<30)
	for i := range 5 { // The last one frees pages.
		st.Apply(uint64(i+1), 1, []*kvv1.Command{{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("k")}}}})
		if err := st.Flush(t.Context(), uint64(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	disk := st.Status()
	s, err := pb.NewMaintenanceClient(conn).Status(t.Context(), &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if s.GetLeader() != number("kv-0/a") || s.GetHeader().GetMemberId() != s.GetLeader() || s.GetHeader().GetRevision() != disk.Revision {
		t.Errorf("leader %d, header %v", s.GetLeader(), s.GetHeader())
	}
	if s.GetDbSize() != disk.FileBytes || s.GetDbSizeInUse() != disk.FileBytes-disk.FreeBytes || disk.FreeBytes == 0 || s.GetDbSizeQuota() <= 40<<30 {
		t.Errorf("sizes %d, %d, %d", s.GetDbSize(), s.GetDbSizeInUse(), s.GetDbSizeQuota())
	}
	if s.GetRaftIndex() != 12 || s.GetRaftAppliedIndex() != 11 || len(s.GetErrors()) != 0 {
		t.Errorf("%v", s)
	}
}

// A pod that is behind answers with what it has, and says so.
func TestStatusOfAPodThatCatchesUp(t *testing.T) {
	conn, _ := opsPodOf(t, &opsLog{behind: "it catches up: applied 11 of 12"}, 50<<30)
	s, err := pb.NewMaintenanceClient(conn).Status(t.Context(), &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if errs := s.GetErrors(); len(errs) != 1 || errs[0] != "etcdserver: not ready: it catches up: applied 11 of 12" || s.GetIsLearner() {
		t.Error(s)
	}
}

// Nothing has etcd's hash of nothing, before the first write and ever after.
func TestHashOfNothing(t *testing.T) {
	s := newSolo(t)
	maintenance := pb.NewMaintenanceClient(s.conn)
	const nothing = 1084519789 // What etcd 3.7 answers.
	check := func(at, revision, newest int64, same bool) {
		t.Helper()
		h, err := maintenance.HashKV(t.Context(), &pb.HashKVRequest{Revision: at})
		if err != nil || (h.GetHash() == nothing) != same || h.GetHashRevision() != revision || h.GetHeader().GetRevision() != newest || h.GetCompactRevision() != -1 {
			t.Error(h, err)
		}
	}
	if h, err := maintenance.Hash(t.Context(), &pb.HashRequest{}); err != nil || h.GetHash() == 0 {
		t.Error(h, err)
	}
	check(0, 1, 1, true)
	s.put(t, "k", "v")
	check(0, 2, 2, false)
	check(1, 1, 2, true)
	check(-1, -1, 2, true)
}

// A nearly full volume is an alarm that nobody needs to disarm.
func TestAlarmNoSpace(t *testing.T) {
	conn, _ := opsPod(t, 1<<20)
	maintenance, kv := pb.NewMaintenanceClient(conn), pb.NewKVClient(conn)
	alarm := &pb.AlarmMember{MemberID: number("kv-0/a"), Alarm: pb.AlarmType_NOSPACE}
	ask := func(action pb.AlarmRequest_AlarmAction, kind pb.AlarmType) ([]*pb.AlarmMember, error) {
		r, err := maintenance.Alarm(t.Context(), &pb.AlarmRequest{Action: action, MemberID: alarm.MemberID, Alarm: kind})
		return r.GetAlarms(), err
	}
	for begun := time.Now(); time.Since(begun) < 5*time.Second; time.Sleep(time.Millisecond) {
		if got, _ := ask(pb.AlarmRequest_GET, pb.AlarmType_NONE); len(got) > 0 {
			break // The pod has looked at its volume.
		}
	}
	for _, kind := range []pb.AlarmType{pb.AlarmType_NONE, pb.AlarmType_NOSPACE} {
		if got, err := ask(pb.AlarmRequest_GET, kind); err != nil || len(got) != 1 || got[0].String() != alarm.String() {
			t.Errorf("get %v: %v, %v", kind, got, err)
		}
	}
	if got, err := ask(pb.AlarmRequest_GET, pb.AlarmType_CORRUPT); err != nil || len(got) != 0 {
		t.Errorf("get CORRUPT: %v, %v", got, err)
	}
	if _, err := ask(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("deactivate: %v", err)
	}
	if _, err := ask(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_CORRUPT); err != nil {
		t.Errorf("deactivate what is not: %v", err)
	}
	if _, err := ask(pb.AlarmRequest_ACTIVATE, pb.AlarmType_CORRUPT); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("activate: %v", err)
	}
	now, err := maintenance.Status(t.Context(), &pb.StatusRequest{})
	if err != nil || len(now.GetErrors()) != 1 || !strings.Contains(now.GetErrors()[0], "NOSPACE") {
		t.Errorf("status: %v, %v", now.GetErrors(), err)
	}
	if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("put: %v", err)
	}
}

func TestSnapshotEndsWithItsChecksum(t *testing.T) {
	for _, size := range []int{1, sectorBytes, sectorBytes + 1, snapshotChunkBytes, 3*snapshotChunkBytes + 7} {
		database, got := bytes.Repeat([]byte{7}, size), []byte(nil)
		err := sendSnapshot(t.Context(), bytes.NewReader(database), int64(size), func(r *pb.SnapshotResponse) error {
			got = append(got, r.GetBlob()...)
			if whole := (size + sectorBytes - 1) / sectorBytes * sectorBytes; int(r.GetRemainingBytes()) != max(0, whole-len(got)) {
				t.Errorf("%d of %d bytes, and %d remain", len(got), whole, r.GetRemainingBytes())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(got)%sectorBytes != sha256.Size || !bytes.HasPrefix(got, database) {
			t.Fatalf("%d bytes of %d", len(got), size)
		}
		if sum := sha256.Sum256(got[:len(got)-sha256.Size]); !bytes.HasSuffix(got, sum[:]) {
			t.Fatalf("%d bytes: wrong checksum", size)
		}
	}
}

// What is sent is the database with all that was applied.
func TestSnapshot(t *testing.T) {
	conn, st := opsPod(t, 50<<30)
	st.Apply(1, 1, []*kvv1.Command{{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("k")}}}})
	stream, err := pb.NewMaintenanceClient(conn).Snapshot(t.Context(), &pb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.GetBlob()...)
	}
	file := filepath.Join(t.TempDir(), "snapshot")
	if err := os.WriteFile(file, got, 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := store.Verify(t.Context(), file, nil); err != nil || info.Position.Index != 1 || info.Revision != st.Revision() {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestMoveLeader(t *testing.T) {
	conn, _ := opsPod(t, 50<<30)
	maintenance := pb.NewMaintenanceClient(conn)
	for _, c := range []struct {
		to   string
		want string
	}{
		{"kv-9/x", "etcdserver: bad leader transferee"},
		{"kv-2/c", "etcdserver: bad leader transferee"}, // A learner.
		{"kv-0/a", ""},
		{"kv-1/b", ""},
		{"kv-1/b", "etcdserver: not leader"},
	} {
		_, err := maintenance.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: number(c.to)})
		if status.Convert(err).Message() != c.want {
			t.Errorf("%s: %v, want %q", c.to, err, c.want)
		}
	}
}

func TestMembers(t *testing.T) {
	conn, _ := opsPod(t, 50<<30)
	cluster := pb.NewClusterClient(conn)
	list, err := cluster.MemberList(t.Context(), &pb.MemberListRequest{Linearizable: true})
	if err != nil || len(list.GetMembers()) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
	me, learner := list.GetMembers()[0], list.GetMembers()[2]
	if me.GetName() != "kv-0" || me.GetClientURLs()[0] != "http://host-0:7400" || me.GetPeerURLs()[0] != "http://host-0:7401" || me.GetIsLearner() {
		t.Errorf("%v", me)
	}
	if !learner.GetIsLearner() || len(learner.GetClientURLs()) != 0 {
		t.Errorf("%v", learner)
	}
	_, add := cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{"http://x:1"}})
	_, remove := cluster.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: me.GetID()})
	_, update := cluster.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: me.GetID()})
	_, promote := cluster.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: learner.GetID()})
	_, voter := cluster.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: me.GetID()})
	_, unknown := cluster.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: 1})
	for _, c := range []struct {
		err  error
		want string
	}{
		{add, "scale the StatefulSet up"},
		{remove, "scale the StatefulSet down"},
		{update, "found by its name"},
		{promote, "votes by itself"},
		{voter, "can only promote a learner"},
		{unknown, "member not found"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%v, want %q", c.err, c.want)
		}
	}
}
