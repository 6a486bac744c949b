package etcd

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// localLog gives proposers another outcome than what happened.
type localLog struct {
	*soloLog
	outcome error  // Nil: the truth.
	applied func() // Called before a proposer hears of it; nil: nothing is.
}

func (l *localLog) Propose(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error) {
	result, err := l.soloLog.Propose(ctx, command)
	if l.applied != nil {
		l.applied()
	}
	if l.outcome != nil {
		return nil, l.outcome
	}
	return result, err
}

// localKV is the KV service of a pod that is a cluster of its own.
type localKV struct {
	*kvService
	log   *localLog
	store *store.Store
}

func newLocalKV(t testing.TB) *localKV {
	t.Helper()
	st, err := store.Open(store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	k := &localKV{log: &localLog{soloLog: &soloLog{store: st, master: "kv-0"}}, store: st}
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
