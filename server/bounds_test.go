package server

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/quota"
	"github.com/batondb/baton/internal/rawgrpc"
	"github.com/batondb/baton/internal/sleep"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// rawTo serves a pod on a second client port, and connects to that.
func rawTo(t *testing.T, p *fakePod) *rawgrpc.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go p.grpc.Serve(l)
	conn, err := net.Dial("tcp", l.Addr().String())
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

func call(t *testing.T, raw *rawgrpc.Conn, method string, request proto.Message, more ...hpack.HeaderField) uint32 {
	t.Helper()
	encoded, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	id, err := raw.Call(method, encoded, more...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// awaitUsed waits until a quota has so much taken.
func awaitUsed(t *testing.T, q *quota.Quota, is func(int64) bool) {
	t.Helper()
	for ctx := within5s(t); ; {
		used, _ := q.Used()
		if is(used) {
			return
		}
		if !sleep.For(ctx, time.Millisecond) {
			t.Fatalf("%d %s", used, q.Name())
		}
	}
}

// Answers that nobody reads fill what their caller may have, of unary calls and of
// streams; more is refused, and all is given back when they are read or given up.
func TestUnreadAnswers(t *testing.T) {
	p := newPod(t, "kv-0").use()
	for i := range 8 {
		p.store.apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: make([]byte, 250<<10)}}})
	}
	p.core.bounds.answers = quota.New("bytes of unread answers", 16<<20)
	raw, answers := rawTo(t, p), p.core.bounds.answers
	all := &kvv1.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}
	for range 5 {
		call(t, raw, "/baton.kv.v1.KVService/Range", all)
	}
	end, err := raw.WaitAny(within5s(t))
	if err != nil || end.Code != codes.ResourceExhausted || !strings.Contains(end.Message, "bytes of unread answers") {
		t.Errorf("one of five, 2 MB each: %+v, %v", end, err)
	}
	for range 10 {
		call(t, raw, "/baton.kv.v1.KVService/Scan", &kvv1.ScanRequest{Range: all})
	}
	if used, _ := answers.Used(); used > 8<<20 {
		t.Errorf("%d bytes", used)
	}
	if page, err := p.kv().Range(within5s(t), all); err != nil || len(page.GetKvs()) != 8 {
		t.Errorf("another caller: %d keys, %v", len(page.GetKvs()), err)
	}
	raw.Close()
	awaitUsed(t, answers, func(used int64) bool { return used == 0 })
}

// Headers of 14 MiB end the connection before they are in memory, and those a little
// too long end their call.
func TestLongHeaders(t *testing.T) {
	p := newPod(t, "kv-0").use()
	raw := rawTo(t, p)
	long, err := raw.Begin("/baton.kv.v1.KVService/Range", hpack.HeaderField{Name: "x", Value: strings.Repeat("v", 12<<10)}, hpack.HeaderField{Name: "y", Value: strings.Repeat("v", 3500)})
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Send(long, nil, true); err != nil {
		t.Fatal(err)
	}
	if end, err := raw.Wait(within5s(t), long); err != nil || strings.Contains(end.Message, "header") || end.Reset != 0 {
		t.Errorf("16,000 bytes: %+v, %v", end, err)
	}
	fragment := rawgrpc.Headers("/baton.kv.v1.KVService/Range", hpack.HeaderField{Name: "x", Value: strings.Repeat("v", 15<<10)})
	if err := raw.Framer.WriteRawFrame(1, 0, 3, fragment); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for more := rawgrpc.Field("y", strings.Repeat("v", 15<<10)); sent < 14<<20 && raw.Framer.WriteContinuation(3, false, more) == nil; {
		sent += len(more)
	}
	if end, err := raw.Wait(within5s(t), 3); err != nil || end.Code != codes.Unavailable {
		t.Errorf("%d bytes of headers: %+v, %v", sent, end, err)
	}
}

// Half a message is not waited for without an end, and does not hold what others need.
func TestUnfinishedRequests(t *testing.T) {
	p := newPod(t, "kv-0").use()
	raw := rawTo(t, p)
	put, err := proto.Marshal(&kvv1.PutRequest{Key: []byte("k"), Value: make([]byte, 1<<20)})
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		id, err := raw.Begin("/baton.kv.v1.KVService/Put")
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Send(id, rawgrpc.Message(put)[:32<<10], false); err != nil {
			t.Fatal(err)
		}
	}
	awaitUsed(t, p.core.bounds.arriving, func(used int64) bool { return used > maxArrivingBytes/2-2<<20 })
	if end, err := raw.WaitAny(within5s(t)); err != nil || end.Code != codes.ResourceExhausted || !strings.Contains(end.Message, "bytes of unfinished requests") {
		t.Errorf("one that was refused: %+v, %v", end, err)
	}
	for ctx, refused := within5s(t), 0; refused < 200-130; refused, _ = raw.Ended() {
		if !sleep.For(ctx, time.Millisecond) {
			t.Fatalf("%d were refused", refused)
		}
	}
	if _, err := p.kv().Put(within5s(t), &kvv1.PutRequest{Key: []byte("k"), Value: make([]byte, 1<<20)}); err != nil {
		t.Error("another caller:", err)
	}
	raw.Close()
	awaitUsed(t, p.core.bounds.arriving, func(used int64) bool { return used == 0 })
}

// A caller may have so many leases, and one more when one of them has ended.
func TestTooManyLeases(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.core.bounds.leases = quota.New("leases", 10)
	leases := kvv1.NewLeaseServiceClient(p.conn)
	grant := func() (int64, error) {
		granted, err := leases.Grant(within5s(t), &kvv1.GrantRequest{TtlSeconds: 100})
		return granted.GetId(), err
	}
	var first int64
	for range 5 {
		id, err := grant()
		if err != nil {
			t.Fatal(err)
		}
		first = max(first, id)
	}
	_, err := grant()
	wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_TOO_MANY)
	p.core.sweepEnded(p.store.Store)
	_, err = grant()
	wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_TOO_MANY)
	if _, err := leases.Revoke(within5s(t), &kvv1.RevokeRequest{Id: first}); err != nil {
		t.Fatal(err)
	}
	p.core.sweepEnded(p.store.Store)
	if _, err = grant(); err != nil {
		t.Error(err)
	}
}

// slotsAtOnce is how many calls a connection takes from the quota at a time.
const slotsAtOnce = 64

// Calls that wait are bounded: they hold a goroutine for as long as their client says.
func TestTooManyCallsThatWait(t *testing.T) {
	p := newPod(t, "kv-0").use()
	raw := rawTo(t, p)
	never := &kvv1.RangeRequest{Key: []byte("k"), Read: &kvv1.ReadOptions{MinRevision: 1 << 40}}
	long := hpack.HeaderField{Name: "grpc-timeout", Value: "1H"} // Under race they take longer to begin than the default.
	for _, conn := range []*rawgrpc.Conn{raw, rawTo(t, p), rawTo(t, p)} {
		for range maxStreamsPerConnection {
			call(t, conn, "/baton.kv.v1.KVService/Range", never, long)
		}
	}
	awaitUsed(t, p.core.bounds.calls, func(used int64) bool { return used > maxCalls/2-slotsAtOnce })
	last := rawTo(t, p)
	for range 2 * slotsAtOnce {
		call(t, last, "/baton.kv.v1.KVService/Range", never, long)
	}
	end, err := last.WaitAny(within5s(t))
	if err != nil || end.Code != codes.ResourceExhausted || !strings.Contains(end.Message, "calls") {
		t.Errorf("%+v, %v", end, err)
	}
	if _, err := p.kv().Range(within5s(t), &kvv1.RangeRequest{Key: []byte("k")}); err != nil {
		t.Error("another caller:", err)
	}
}

// Also answers of some KiB are counted: those of a thousand calls, on each of a thousand
// connections, are much. (Smaller ones are bounded by the number of calls.)
func TestUnreadSmallAnswers(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.store.apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("k"), Value: make([]byte, 2*maxUncountedBytes)}}})
	p.core.bounds.answers = quota.New("bytes of unread answers", 1<<20)
	raw, answers := rawTo(t, p), p.core.bounds.answers
	for range 200 {
		call(t, raw, "/baton.kv.v1.KVService/Range", &kvv1.RangeRequest{Key: []byte("k")})
	}
	for ctx, refused := within5s(t), int64(0); refused == 0; _, refused = answers.Used() {
		if !sleep.For(ctx, time.Millisecond) {
			t.Fatal("none was refused")
		}
	}
	if used, _ := answers.Used(); used > 1<<19 {
		t.Errorf("%d bytes", used)
	}
	raw.Close()
	awaitUsed(t, answers, func(used int64) bool { return used == 0 })
}

// What held must go on holding: none of these ends the pod, or others' calls.
func TestFloods(t *testing.T) {
	p := newPod(t, "kv-0").use()
	nonsense := make([]byte, 64)
	for i := range nonsense {
		nonsense[i] = byte(i * 37)
	}
	for name, send := range map[string]func(*rawgrpc.Conn, int) error{
		"rapid reset": func(raw *rawgrpc.Conn, _ int) error {
			id, err := raw.Begin("/baton.kv.v1.KVService/Range")
			if err != nil {
				return err
			}
			return raw.Framer.WriteRSTStream(id, http2.ErrCodeCancel)
		},
		"pings":    func(raw *rawgrpc.Conn, i int) error { return raw.Framer.WritePing(false, [8]byte{byte(i)}) },
		"settings": func(raw *rawgrpc.Conn, _ int) error { return raw.Framer.WriteSettings() },
		"malformed": func(raw *rawgrpc.Conn, i int) error {
			_, err := raw.Call([]string{"/baton.kv.v1.KVService/Txn", "/etcdserverpb.KV/Put", "/nothing", ""}[i%4], nonsense[:i%64])
			return err
		},
	} {
		raw := rawTo(t, p)
		for i := range 2000 {
			if err := send(raw, i); err != nil {
				break // The pod has ended the connection.
			}
		}
		if _, err := p.kv().Put(within5s(t), &kvv1.PutRequest{Key: []byte("k")}); err != nil {
			t.Errorf("%s: another caller: %v", name, err)
		}
	}
}

// Calls are counted by address, whatever the number of its connections: many with few
// calls each have no less than one with many.
func TestManyConnectionsWithFewCalls(t *testing.T) {
	p := newPod(t, "kv-0").use()
	for range 300 {
		raw := rawTo(t, p)
		id := call(t, raw, "/baton.kv.v1.KVService/Range", &kvv1.RangeRequest{Key: []byte("k")})
		if end, err := raw.Wait(within5s(t), id); err != nil || end.Code != codes.OK {
			t.Fatalf("%+v, %v", end, err)
		}
	}
	if used, _ := p.core.bounds.calls.Used(); used > 1000 {
		t.Errorf("%d calls are taken", used)
	}
}
