package etcd

import (
	"context"
	"io"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// localStore is a real store.
type localStore struct {
	*store.Store
	beforeScan func() // Nil, or what happens meanwhile.
}

func (s *localStore) Watch(req *kvv1.WatchRequest) (server.Watcher, error) { return s.Store.Watch(req) }

func (s *localStore) Snapshot(context.Context) (io.ReadCloser, int64, error) {
	return nil, 0, store.ErrClosed
}

func (s *localStore) Scan(ctx context.Context, req *kvv1.RangeRequest, emit func(int64, []*kvv1.KeyValue) error) error {
	if s.beforeScan != nil {
		s.beforeScan()
	}
	return s.Store.Scan(ctx, req, emit)
}

// localLog applies what is proposed at once: it has one pod.
type localLog struct {
	server.Log
	mu      sync.Mutex
	store   *store.Store
	index   uint64
	outcome error // Nil, or what the proposer gets though it was applied.
}

func (l *localLog) Propose(_ context.Context, command *kvv1.Command) (*kvv1.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	result := l.store.Apply(l.index, 1, []*kvv1.Command{command})[0]
	return result, l.outcome
}

func (l *localLog) LinearizableRead(context.Context) error { return nil }
func (l *localLog) ClusterID() string                      { return "cluster" }
func (l *localLog) MemberID() replication.MemberID         { return "kv-0/a" }
func (l *localLog) Term() uint64                           { return 3 }

// localKV is the KV service of a pod that is a cluster of its own.
type localKV struct {
	*kvService
	log   *localLog
	store *localStore
}

func newLocalKV(t testing.TB) *localKV {
	t.Helper()
	st, err := store.Open(store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	k := &localKV{log: &localLog{store: st}, store: &localStore{Store: st}}
	t.Cleanup(func() {
		select {
		case err := <-st.Failed():
			t.Errorf("the store failed: %v", err)
		default:
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	s := server.New(server.Options{Name: "kv-0"})
	s.Register(func(_ grpc.ServiceRegistrar, backend *server.Backend) {
		k.kvService = &kvService{pod: &pod{Backend: backend}}
	})
	s.UseLog(k.log)
	s.UseStore(k.store)
	return k
}

func (k *localKV) put(t testing.TB, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if _, err := k.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte("of " + key)}); err != nil {
			t.Fatal(err)
		}
	}
}

// parts is the client's side of a RangeStream.
type parts struct {
	grpc.ServerStream
	ctx context.Context
	all []*pb.RangeResponse
}

func (p *parts) Context() context.Context { return p.ctx }

func (p *parts) Send(part *pb.RangeStreamResponse) error {
	p.all = append(p.all, part.GetRangeResponse())
	return nil
}
