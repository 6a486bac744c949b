package etcd

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/rawgrpc"
	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/server"
)

// fillLarge writes 12 MiB: values of all sizes, and one of more than a part.
func fillLarge(t *testing.T, s *solo) {
	t.Helper()
	for i := range 400 {
		s.put(t, fmt.Sprintf("k%03d", i), strings.Repeat("v", i*150))
	}
	s.put(t, "k400", strings.Repeat("v", 1<<20))
}

var everything = &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}

const anySize = 1 << 30

// A large range, whose end is read when it is sent, is what its pages are.
func TestLargeRange(t *testing.T) {
	s := newSolo(t)
	fillLarge(t, s)
	whole, err := s.kv.Range(t.Context(), everything, grpc.MaxCallRecvMsgSize(anySize))
	if err != nil || len(whole.GetKvs()) != 401 || whole.GetCount() != 401 || whole.GetMore() {
		t.Fatalf("%d keys of %d, more: %v, %v", len(whole.GetKvs()), whole.GetCount(), whole.GetMore(), err)
	}
	for i, kv := range whole.GetKvs() {
		one, err := s.kv.Range(t.Context(), &pb.RangeRequest{Key: kv.GetKey()}, grpc.MaxCallRecvMsgSize(anySize))
		if err != nil || !proto.Equal(one.GetKvs()[0], kv) {
			t.Fatalf("key %d: %v", i, err)
		}
	}
	back := proto.CloneOf(everything)
	back.SortTarget, back.SortOrder, back.Limit = pb.RangeRequest_KEY, pb.RangeRequest_DESCEND, 390
	fromTheEnd, err := s.kv.Range(t.Context(), back, grpc.MaxCallRecvMsgSize(anySize))
	if err != nil || len(fromTheEnd.GetKvs()) != 390 || fromTheEnd.GetCount() != 401 || !fromTheEnd.GetMore() {
		t.Fatalf("%d keys of %d, more: %v, %v", len(fromTheEnd.GetKvs()), fromTheEnd.GetCount(), fromTheEnd.GetMore(), err)
	}
	for i, kv := range fromTheEnd.GetKvs() {
		if !proto.Equal(whole.GetKvs()[400-i], kv) {
			t.Fatalf("%s is not what it is from the other end", kv.GetKey())
		}
	}
	if used := s.used(t)["bytes_of_unread_answers"]; used != 0 {
		t.Errorf("%v bytes stay counted", used)
	}
}

func (s *solo) raw(t *testing.T, from net.IP) *rawgrpc.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	conn, err := d.DialContext(t.Context(), "tcp", s.conn.Target())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := rawgrpc.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	return raw
}

// Ranges that nobody reads, of one address or many, hold a part of themselves, others'
// calls go on, and nothing is held once their connections have ended.
func TestUnreadRanges(t *testing.T) {
	s := newSolo(t)
	fillLarge(t, s)
	encoded, err := proto.Marshal(everything)
	if err != nil {
		t.Fatal(err)
	}
	for _, addresses := range []byte{1, 10} {
		var conns []*rawgrpc.Conn
		for n := range 300 {
			if n%30 == 0 {
				conns = append(conns, s.raw(t, net.IPv4(127, 0, 1, 1+byte(n/30)%addresses)))
			}
			if _, err := conns[len(conns)-1].Call("/etcdserverpb.KV/Range", encoded); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		for s.used(t)["calls"] < 300 && sleep.For(ctx, 10*time.Millisecond) { // Those refused need no leave to end.
			if ended := ends(conns); ended > 0 {
				t.Logf("%d addresses: %d were refused", addresses, ended)
				break
			}
		}
		cancel()
		if small, err := s.kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k000"), RangeEnd: []byte("k010")}); err != nil || len(small.GetKvs()) != 10 {
			t.Errorf("another client: %v", err)
		}
		used := s.used(t)["bytes_of_unread_answers"]
		t.Logf("%d addresses: 300 unread ranges of 13 MB hold %.0f MiB", addresses, used/(1<<20))
		if used > 384<<20 {
			t.Errorf("%v bytes", used)
		}
		for _, c := range conns {
			c.Close()
		}
		for begun := time.Now(); s.used(t)["bytes_of_unread_answers"] > 0; time.Sleep(time.Millisecond) {
			if time.Since(begun) > 20*time.Second {
				t.Fatalf("still held: %v", s.used(t))
			}
		}
	}
}

func ends(conns []*rawgrpc.Conn) (calls int) {
	for _, c := range conns {
		ended, _ := c.Ended()
		calls += ended
	}
	return calls
}

// gate is a connection that reads no more, once it has read so much, until it is opened.
type gate struct {
	net.Conn
	left          int
	blocked, open chan struct{}
}

func (g *gate) Read(p []byte) (int, error) {
	if g.left <= 0 && g.blocked != nil {
		close(g.blocked)
		g.blocked = nil
		<-g.open
	}
	n, err := g.Conn.Read(p)
	g.left -= n
	return n, err
}

// readSlowly begins a range of everything, over a connection that stops reading in the
// middle of the answer, and calls meanwhile then. It returns how the range ended.
func (s *solo) readSlowly(ctx context.Context, t *testing.T, meanwhile func()) error {
	t.Helper()
	blocked, open := make(chan struct{}), make(chan struct{})
	conn, err := grpc.NewClient(s.conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithInitialConnWindowSize(64<<10), grpc.WithInitialWindowSize(64<<10),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			plain, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			return &gate{Conn: plain, left: 100 << 10, blocked: blocked, open: open}, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	var (
		reading sync.WaitGroup
		got     *pb.RangeResponse
	)
	reading.Go(func() { got, err = pb.NewKVClient(conn).Range(ctx, everything, grpc.MaxCallRecvMsgSize(anySize)) })
	<-blocked
	meanwhile()
	close(open)
	reading.Wait()
	if err == nil && len(got.GetKvs()) != 401 {
		t.Errorf("%d keys, and no error", len(got.GetKvs()))
	}
	return err
}

// What cannot be read any more when its client reads ends a range with an error, and never
// with a part of what it was; a range that is read slowly is whole.
func TestSlowRanges(t *testing.T) {
	s := newSolo(t)
	fillLarge(t, s)
	if err := s.readSlowly(t.Context(), t, func() { s.put(t, "k001", "meanwhile") }); err != nil {
		t.Error(err)
	}
	if err := s.readSlowly(t.Context(), t, func() {
		changed, err := s.kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k400"), Value: []byte("new")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: changed.GetHeader().GetRevision(), Physical: true}); err != nil {
			t.Fatal(err)
		}
	}); status.Code(err) != codes.Internal {
		t.Errorf("compacted meanwhile: %v", err)
	}
	p := secure(t, s, permission(reading, "k", "l"))
	if err := s.readSlowly(p.alice, t, func() {
		p.must(p.auth.RoleRevokePermission(p.root, &pb.AuthRoleRevokePermissionRequest{Role: "alice", Key: []byte("k"), RangeEnd: []byte("l")}))
	}); status.Code(err) != codes.Internal {
		t.Errorf("the right was lost meanwhile: %v", err)
	}
}

// Transactions that read ranges take turns with ranges; those of single keys need none.
func TestTransactionsTakeTurns(t *testing.T) {
	s := newSolo(t)
	var turns []*server.Turn
	for n, taken := 0, -1; taken < len(turns); n++ { // Each caller leaves some to the next.
		taken = len(turns)
		for begun := error(nil); begun == nil; {
			ctx, cancel := context.WithTimeout(caller.With(t.Context(), caller.Caller{User: fmt.Sprint(n)}), 50*time.Millisecond)
			var turn *server.Turn
			if turn, begun = s.queue.pod.Turn(ctx, true); begun == nil {
				turns = append(turns, turn)
			}
			cancel()
		}
	}
	read := func(end string, patience time.Duration) codes.Code {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		request := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte(end)}
		_, err := s.kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: request}}}})
		return status.Code(err)
	}
	if one, all := read("", 10*time.Second), read("l", 200*time.Millisecond); one != codes.OK || all == codes.OK {
		t.Errorf("without a turn: %v for a key, %v for a range", one, all)
	}
	for _, turn := range turns {
		turn.End()
	}
	if all := read("l", 10*time.Second); all != codes.OK {
		t.Errorf("with a turn: %v", all)
	}
}
