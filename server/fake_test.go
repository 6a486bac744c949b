package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/batondb/baton/internal/sleep"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

// testStore is a store that the test applies commands to.
type testStore struct {
	*store.Store
	mu    sync.Mutex // guards index, and orders what is applied
	index uint64
}

func newStore(t *testing.T) *testStore {
	t.Helper()
	st, err := store.Open(store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return &testStore{Store: st}
}

func (s *testStore) apply(command *kvv1.Command) *kvv1.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index++
	return s.Apply(s.index, 1, []*kvv1.Command{command})[0]
}

func (s *testStore) put(value string) {
	s.apply(&kvv1.Command{
		Identity: &kvv1.Identity{Pod: true},
		Command:  &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("k"), Value: []byte(value)}},
	})
}

func (s *testStore) compact(revision int64) {
	s.apply(&kvv1.Command{
		Identity: &kvv1.Identity{Pod: true},
		Command:  &kvv1.Command_Compact{Compact: &kvv1.CompactRequest{Revision: revision}},
	})
}

func (s *testStore) grant(id, ttl int64) {
	s.apply(&kvv1.Command{Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{Id: id, TtlSeconds: ttl}}})
}

func (s *testStore) revoke(id int64) {
	s.apply(&kvv1.Command{Command: &kvv1.Command_Revoke{Revoke: &kvv1.RevokeRequest{Id: id}}})
}

// fakeLog answers with what propose gives: unless a test changes that, what is
// proposed is applied to this pod's store, and to no other.
type fakeLog struct {
	name    string
	propose func(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error)

	mu       sync.Mutex
	master   string
	changed  chan struct{} // closed when the master is another; nil: nobody waits
	members  []string
	joining  []string
	peers    map[string]*grpc.ClientConn
	others   map[string]*fakeLog
	mark     replication.Mark
	server   *Server
	readErr  error
	reading  func() // Called by each linearizable read; nil: nothing.
	recloned string
	awaits   bool
	old      bool          // Its version knows neither users and roles nor tenants.
	slow     time.Duration // To be compared with.
	deadline time.Duration // Of the last read.
}

func (l *fakeLog) ProposeAsMaster(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error) {
	if !l.IsMaster() {
		return nil, replication.ErrNoMaster
	}
	return l.Propose(ctx, command)
}

func (l *fakeLog) Propose(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error) {
	return l.propose(ctx, command)
}

func (l *fakeLog) LinearizableRead(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	deadline, _ := ctx.Deadline()
	l.deadline = time.Until(deadline)
	if l.reading != nil {
		l.reading()
	}
	return l.readErr
}

func (l *fakeLog) BoundedRead(ctx context.Context, staleness time.Duration) error {
	if staleness > 24*time.Hour { // It had a master then.
		return nil
	}
	return l.LinearizableRead(ctx)
}

func (l *fakeLog) Mark() replication.Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mark
}

func (l *fakeLog) setMark(hash uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark.Hash = hash
}

// CompareWith is what the peer service of replication does. A mark without a
// hash is that of a pod that does not answer.
func (l *fakeLog) CompareWith(ctx context.Context, pod string, own replication.Mark) (replication.Mark, error) {
	other := l.others[pod]
	sleep.For(ctx, other.slow)
	theirs := other.Mark()
	if theirs.Hash == 0 {
		return replication.Mark{}, errors.New("silent")
	}
	if theirs != own {
		other.server.Differs(l.name, "differs from "+l.name)
	}
	return theirs, nil
}

// ComparePart is what the peer service of replication does. A pod without a hash does not
// answer.
func (l *fakeLog) ComparePart(ctx context.Context, pod string, own replication.Part) (replication.Part, error) {
	other := l.others[pod]
	sleep.For(ctx, other.slow)
	if other.Mark().Hash == 0 {
		return replication.Part{}, errors.New("silent")
	}
	return other.server.ComparePart(ctx, l.name, own)
}

func (l *fakeLog) MasterConn(context.Context) (*grpc.ClientConn, error) {
	master, ok := l.Master()
	if !ok {
		return nil, replication.ErrNoMaster
	}
	return l.PeerConn(master)
}

func (l *fakeLog) PeerConn(pod string) (*grpc.ClientConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peers[pod], nil
}

func (l *fakeLog) IsMaster() bool {
	master, _ := l.Master()
	return master == l.name
}

func (l *fakeLog) Master() (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.master, l.master != ""
}

func (l *fakeLog) setMaster(pod string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.master = pod
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func (l *fakeLog) MasterChanged() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

func (l *fakeLog) Members() []replication.Member {
	l.mu.Lock()
	defer l.mu.Unlock()
	var members []replication.Member
	for _, pod := range l.members {
		members = append(members, replication.Member{
			ID: replication.MemberID(pod + "/1"), Pod: pod, Ordinal: replication.Ordinal(pod), Voter: true,
		})
	}
	return members
}

func (l *fakeLog) AwaitsNext() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.awaits
}

func (l *fakeLog) Joining() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.joining
}

func (l *fakeLog) ClusterID() string { return "cluster" }

func (l *fakeLog) MemberID() replication.MemberID { return replication.MemberID(l.name + "/1") }
func (l *fakeLog) Term() uint64                   { return 1 }

func (l *fakeLog) Status() replication.Status {
	master, _ := l.Master()
	return replication.Status{Master: master, Commit: 5, Applied: 3, Ready: master != "", Because: map[bool]string{true: "no master is known"}[master == ""]}
}

func (l *fakeLog) PodStatus(context.Context) *kvv1.PodStatus {
	s := &kvv1.PodStatus{Name: l.name, MemberId: l.name + "/1", Ordinal: int32(replication.Ordinal(l.name)), Role: kvv1.PodStatus_ROLE_FOLLOWER}
	if l.IsMaster() {
		s.Role = kvv1.PodStatus_ROLE_MASTER
	}
	l.server.CompleteStatus(s)
	s.AccessControl, s.Tenants = s.AccessControl && !l.old, s.Tenants && !l.old
	return s
}

func (l *fakeLog) HandOver(_ context.Context, to string) (string, error) {
	switch to {
	case "nobody":
		return "", fmt.Errorf("%w: nobody is not a voter that answers", replication.ErrNoSuccessor)
	case "lost":
		return "", status.Error(codes.Unavailable, "the connection broke")
	}
	return "kv-1", nil
}

func (l *fakeLog) Reclone(_ context.Context, reason string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recloned = reason
	return nil
}

// fakePod is a server with a client connection, over a fake log.
type fakePod struct {
	*Server
	log   *fakeLog
	store *testStore
	space atomic.Pointer[Space]
	port  *bufconn.Listener
	conn  *grpc.ClientConn // To the client port.
	peer  *grpc.ClientConn // To the peer port.
}

func (p *fakePod) kv() kvv1.KVServiceClient { return kvv1.NewKVServiceClient(p.conn) }

// newPod starts a pod that is ready, and its own master.
func newPod(t *testing.T, name string, change ...func(*Options)) *fakePod {
	t.Helper()
	p := &fakePod{
		log:   &fakeLog{name: name, master: name, members: []string{name}, peers: map[string]*grpc.ClientConn{}, mark: replication.Mark{Index: 9, Revision: 7, Hash: 42}},
		store: newStore(t),
	}
	p.space.Store(&Space{})
	space := func() (Space, error) { return *p.space.Load(), nil }
	options := Options{Name: name, ClientAddress: name + ":7400", Version: "test", Space: space}
	for _, c := range change {
		c(&options)
	}
	p.Server = New(options)
	p.log.server = p.Server
	p.log.propose = func(_ context.Context, command *kvv1.Command) (*kvv1.Result, error) {
		return p.store.apply(command), nil
	}
	client, web, peer := bufconn.Listen(1<<20), bufconn.Listen(1<<20), bufconn.Listen(1<<20)
	p.Start(client, web)
	peers := grpc.NewServer()
	p.RegisterPeer(peers)
	peerv1.RegisterPeerServiceServer(peers, &fakePeer{log: p.log})
	go peers.Serve(peer)
	p.port, p.conn, p.peer = client, dial(t, client), dial(t, peer)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		p.conn.Close()
		p.peer.Close()
		p.Stop(ctx)
		peers.Stop()
	})
	return p
}

func (p *fakePod) use() *fakePod {
	p.UseLog(p.log)
	p.UseStore(p.store.Store)
	return p
}

type fakePeer struct {
	peerv1.UnimplementedPeerServiceServer
	log *fakeLog
}

func (p *fakePeer) PodStatus(ctx context.Context, _ *peerv1.PodStatusRequest) (*peerv1.PodStatusResponse, error) {
	return &peerv1.PodStatusResponse{Status: p.log.PodStatus(ctx)}, nil
}

func dial(t *testing.T, l *bufconn.Listener) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///pod", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// wire makes pods members of one cluster, with the first as the master.
func wire(pods ...*fakePod) {
	for _, p := range pods {
		p.log.members = nil
		for _, other := range pods {
			p.log.members = append(p.log.members, other.log.name)
			if other != p {
				p.log.peers[other.log.name] = other.peer
			}
		}
		p.log.others = map[string]*fakeLog{}
		for _, other := range pods {
			p.log.others[other.log.name] = other.log
		}
		p.log.setMaster(pods[0].log.name)
		p.use()
	}
}

func within5s(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// await waits for a state.
func await(t *testing.T, what string, reached func() bool) {
	t.Helper()
	ctx := within5s(t)
	for !reached() {
		if !sleep.For(ctx, time.Millisecond) {
			t.Fatalf("never: %s", what)
		}
	}
}
