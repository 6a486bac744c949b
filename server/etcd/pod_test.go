package etcd

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// soloLog is the log of a cluster of one pod: what is proposed is applied.
type soloLog struct {
	server.Log
	store *store.Store
	reads atomic.Int64 // Linearizable ones.

	mu     sync.Mutex
	index  uint64
	master string
}

func (l *soloLog) Propose(_ context.Context, command *kvv1.Command) (*kvv1.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.master == "" {
		return nil, replication.ErrNoMaster
	}
	l.index++
	return l.store.Apply(l.index, 1, []*kvv1.Command{command})[0], nil
}

func (l *soloLog) ProposeAsMaster(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error) {
	return l.Propose(ctx, command)
}

func (l *soloLog) LinearizableRead(context.Context) error {
	l.reads.Add(1)
	if !l.IsMaster() {
		return replication.ErrNoMaster
	}
	return nil
}

func (l *soloLog) Master() (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.master, l.master != ""
}

func (l *soloLog) setMaster(pod string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.master = pod
}

func (l *soloLog) IsMaster() bool                            { _, ok := l.Master(); return ok }
func (l *soloLog) ClusterID() string                         { return "cluster" }
func (l *soloLog) MemberID() replication.MemberID            { return "kv-0/a" }
func (l *soloLog) Members() []replication.Member             { return []replication.Member{{Pod: "kv-0"}} }
func (l *soloLog) Joining() []string                         { return nil }
func (l *soloLog) Status() replication.Status                { return replication.Status{Ready: true} }
func (l *soloLog) Term() uint64                              { return 1 }
func (l *soloLog) MasterChanged() <-chan struct{}            { return nil }
func (l *soloLog) PeerConn(string) (*grpc.ClientConn, error) { return nil, replication.ErrClosed }

func (l *soloLog) MasterConn(context.Context) (*grpc.ClientConn, error) {
	return nil, replication.ErrNoMaster
}

func (l *soloLog) PodStatus(context.Context) *kvv1.PodStatus {
	return &kvv1.PodStatus{Name: "kv-0", MemberId: "kv-0/a", Role: kvv1.PodStatus_ROLE_MASTER}
}

func (l *soloLog) HandOver(context.Context, string) (string, error) {
	return "", replication.ErrNoMaster
}

// solo is a pod with a real store, and a connection to it.
type solo struct {
	*server.Server
	registry *prometheus.Registry
	log      *soloLog
	store    *store.Store
	queue    *queue // As those of the locks and the elections that it serves.
	conn     *grpc.ClientConn
	kv       pb.KVClient
}

func newSolo(t testing.TB, change ...func(*server.Options)) *solo {
	t.Helper()
	st, err := store.Open(store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &solo{registry: prometheus.NewRegistry(), log: &soloLog{store: st, master: "kv-0"}, store: st}
	options := server.Options{Name: "kv-0", HashInterval: time.Hour, Registry: s.registry}
	for _, c := range change {
		c(&options)
	}
	s.Server = server.New(options)
	s.Register(func(registrar grpc.ServiceRegistrar, backend *server.Backend) {
		Register(registrar, backend)
		own := &pod{Backend: backend}
		s.queue = &queue{pod: own, kv: &kvService{pod: own}}
	})
	client, web := listen(t), listen(t)
	s.UseLog(s.log)
	s.UseStore(st)
	s.Start(client, web)
	leading, stepDown := context.WithCancel(context.Background())
	var masters sync.WaitGroup
	masters.Go(func() { s.RunMaster(leading) })
	s.conn, err = grpc.NewClient(client.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	s.kv = pb.NewKVClient(s.conn)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.conn.Close()
		s.Stop(ctx)
		stepDown()
		masters.Wait()
		if err := st.Check(ctx); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	s.awaitReign(t)
	return s
}

// awaitReign returns when the pod knows how long leases live.
func (s *solo) awaitReign(t testing.TB) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		_, err := pb.NewLeaseClient(s.conn).LeaseTimeToLive(context.Background(), &pb.LeaseTimeToLiveRequest{ID: 1})
		if err == nil {
			return
		}
		if time.Since(begun) > 10*time.Second {
			t.Fatal(err)
		}
	}
}

// put returns the revision of the put.
func (s *solo) put(t *testing.T, key, value string) int64 {
	t.Helper()
	response, err := s.kv.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return response.GetHeader().GetRevision()
}

// delete deletes a key or a range, and returns the revision.
func (s *solo) delete(t *testing.T, key, end string) int64 {
	t.Helper()
	response, err := s.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
	if err != nil {
		t.Fatal(err)
	}
	return response.GetHeader().GetRevision()
}
