package server

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/internal/sleep"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// lapsing is a pod on which a token is good until a time that the test sets, and the
// context of calls with it.
func lapsing(t *testing.T) (p *fakePod, ctx context.Context, until *atomic.Pointer[time.Time]) {
	t.Helper()
	until = &atomic.Pointer[time.Time]{}
	p = newPod(t, "kv-0", func(o *Options) {
		o.Security.Token = func(context.Context, string) (caller.Caller, error) {
			return caller.Caller{User: "root", By: caller.ServiceAccount, Until: *until.Load()}, nil
		}
	}).use()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return p, metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer good.to.ken"), until
}

// begun is a stream, and how it receives the next message.
type begun struct {
	name string
	recv func() (any, error)
}

func begin[Response any](t *testing.T, name string, stream interface{ Recv() (*Response, error) }, err error) begun {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return begun{name, func() (any, error) { return stream.Recv() }}
}

// Each stream of a caller whose token ends then ends, with a word that makes clients get
// the next one, and brings nothing that was written afterwards.
func TestStreamsEndWithTheirToken(t *testing.T) {
	p, ctx, lapse := lapsing(t)
	for range 16 { // More than is on its way while nobody reads.
		p.store.put(strings.Repeat("v", 1<<20))
	}
	large := strings.Repeat("v", 1<<20)
	for i := range 16 {
		p.store.apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte{'l', byte('a' + i)}, Value: []byte(large)}}})
	}
	p.store.grant(7, 60)
	p.store.enable()

	until := time.Now().Add(2 * time.Second)
	lapse.Store(&until)
	watch, err := kvv1.NewWatchServiceClient(p.conn).Watch(ctx, &kvv1.WatchRequest{Key: []byte("k")})
	streams := []begun{begin(t, "watch", watch, err)}
	behind, err := kvv1.NewWatchServiceClient(p.conn).Watch(ctx, &kvv1.WatchRequest{Key: []byte("l"), RangeEnd: []byte("m"), StartRevision: 1})
	streams = append(streams, begin(t, "a watch that is not read", behind, err))
	keepAlive, err := kvv1.NewLeaseServiceClient(p.conn).KeepAlive(ctx)
	streams = append(streams, begin(t, "keep-alives", keepAlive, err))
	batch, err := p.kv().Batch(ctx)
	streams = append(streams, begin(t, "batches", batch, err))
	scan, err := p.kv().Scan(ctx, &kvv1.ScanRequest{Range: &kvv1.RangeRequest{Key: []byte("l"), RangeEnd: []byte("m")}})
	streams = append(streams, begin(t, "scan", scan, err))
	snapshot, err := kvv1.NewMaintenanceServiceClient(p.conn).Snapshot(ctx, &kvv1.SnapshotRequest{})
	streams = append(streams, begin(t, "snapshot", snapshot, err))
	_, err = watch.Recv()
	if err == nil {
		err = batch.Send(&kvv1.BatchRequest{Id: 1})
	}
	if err == nil {
		_, err = batch.Recv()
	}
	if time.Now().After(until) {
		t.Skip("this machine is too slow: the token has ended before the test began")
	}
	if err != nil {
		t.Fatal(err)
	}

	sleep.For(ctx, time.Until(until.Add(200*time.Millisecond)))
	p.store.put("afterwards")
	p.store.apply(&kvv1.Command{Identity: &kvv1.Identity{Pod: true}, Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("lz"), Value: []byte("afterwards")}}})
	for _, s := range streams {
		message, err := s.recv()
		for ; err == nil; message, err = s.recv() {
			if w, ok := message.(*kvv1.WatchResponse); ok && strings.Contains(w.String(), "afterwards") {
				t.Errorf("%s brings what was written after the end", s.name)
			}
		}
		if _, reason, _ := info(err); reason != "UNAUTHENTICATED" || !strings.Contains(err.Error(), "next one") {
			t.Errorf("%s ended with %v", s.name, err)
		}
	}
	await(t, "nothing of the streams is left", func() bool {
		streams, _ := p.core.bounds.streams.Used()
		watches, _ := p.core.bounds.watches.Used()
		return streams == 0 && watches == 0
	})
}

// sink notes that something was sent.
type sink struct {
	grpc.ServerStream
	sent bool
}

func (s *sink) SendMsg(any) error {
	s.sent = true
	return nil
}

func (s *sink) RecvMsg(any) error { return nil }

// What was asked before the end is answered after it, but not for long, and nothing is asked
// then: by the clock, as timers may be late.
func TestTheGraceOfALapse(t *testing.T) {
	for _, test := range []struct {
		ago   time.Duration
		paced bool
		sent  bool
	}{{-time.Minute, true, true}, {time.Second, true, false}, {time.Second, false, true}, {lapseGrace + time.Second, false, false}} {
		to := &sink{}
		s := &servedStream{ServerStream: to, ctx: t.Context(), paced: test.paced, caller: caller.Caller{User: "a", Until: time.Now().Add(-test.ago)}}
		if err := s.SendMsg(&kvv1.PutResponse{}); to.sent != test.sent || (err == nil) != test.sent {
			t.Errorf("%s after the end, paced %t: sent %t, %v", test.ago, test.paced, to.sent, err)
		}
		if err := s.RecvMsg(&kvv1.PutRequest{}); (err == nil) != (test.ago < 0) {
			t.Errorf("%s after the end, a request: %v", test.ago, err)
		}
	}
}

// A call that waits for what is to come does not bring it after the end, whatever its
// deadline.
func TestAWaitEndsWithItsToken(t *testing.T) {
	p, ctx, lapse := lapsing(t)
	until := time.Now().Add(300*time.Millisecond - lapseGrace) // The grace is nearly over.
	lapse.Store(&until)
	_, err := p.kv().Range(ctx, &kvv1.RangeRequest{Key: []byte("k"), Read: &kvv1.ReadOptions{
		Consistency: kvv1.Consistency_CONSISTENCY_LOCAL, MinRevision: p.store.Revision() + 1,
	}})
	wantReason(t, err, unauthenticated)
}

// A password's token ends streams as well, in its own words.
func TestStreamsEndWithTheirPasswordsToken(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.store.enable()
	until := time.Now().Add(2 * time.Second)
	token := newToken([]byte("key"), "root", 2, until) // Until the second before.
	ctx := metadata.AppendToOutgoingContext(within5s(t), etcdTokenKey, token)
	watch, err := kvv1.NewWatchServiceClient(p.conn).Watch(ctx, &kvv1.WatchRequest{Key: []byte("k")})
	for err == nil {
		_, err = watch.Recv()
	}
	if _, reason, _ := info(err); reason != "UNAUTHENTICATED" || !strings.Contains(err.Error(), "log in again") {
		t.Errorf("the watch ended with %v", err)
	}
}

// A client certificate that ends takes its streams with it: their clients are to connect
// again, with the one that they have by then.
func TestStreamsEndWithTheirCertificate(t *testing.T) {
	ca := newTestCA(t)
	p := newSecuredPod(t, ca)
	brief := issueFor(t, ca, pki.Request{Names: []string{webPrincipal}, Client: true, Now: time.Now(), Life: 2 * time.Second})
	conn := p.connect(t, trusting(t, []*pki.CA{ca}, brief))
	watch, err := kvv1.NewWatchServiceClient(conn).Watch(within5s(t), &kvv1.WatchRequest{Key: []byte("k")})
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ended with %v", err)
	}
}
