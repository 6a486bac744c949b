package etcd

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// watching is a watch stream of a test.
type watching struct {
	pb.Watch_WatchClient
	t *testing.T
}

func (s *solo) watching(t *testing.T) *watching {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &watching{stream, t}
}

func (w *watching) ask(req *pb.WatchRequest) {
	w.t.Helper()
	if err := w.Send(req); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watching) create(req *pb.WatchCreateRequest) {
	w.t.Helper()
	w.ask(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}})
}

func (w *watching) cancel(id int64) {
	w.t.Helper()
	w.ask(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (w *watching) progress() {
	w.t.Helper()
	w.ask(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

func (w *watching) next() *pb.WatchResponse {
	w.t.Helper()
	response, err := w.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	return response
}

// want compares the next response's short form.
func (w *watching) want(want string) {
	w.t.Helper()
	if got := short(w.next()); got != want {
		w.t.Fatalf("got  %s\nwant %s", got, want)
	}
}

// short is a response in a line.
func short(r *pb.WatchResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d @%d", r.GetWatchId(), r.GetHeader().GetRevision())
	if r.GetCreated() {
		b.WriteString(" created")
	}
	if r.GetCanceled() {
		fmt.Fprintf(&b, " canceled %q %d", r.GetCancelReason(), r.GetCompactRevision())
	}
	if r.GetFragment() {
		b.WriteString(" fragment")
	}
	for _, e := range r.GetEvents() {
		sign := "="
		if e.GetType() == mvccpb.Event_DELETE {
			sign = "-"
		}
		fmt.Fprintf(&b, " %d:%s%s%s", e.GetKv().GetModRevision(), e.GetKv().GetKey(), sign, e.GetKv().GetValue())
		if prev := e.GetPrevKv(); prev != nil {
			fmt.Fprintf(&b, "(%s)", prev.GetValue())
		}
	}
	return b.String()
}

// All that one stream can carry, in the order in which etcd answers.
func TestWatchStream(t *testing.T) {
	s := newSolo(t)
	w := s.watching(t)
	s.put(t, "a", "1") // Revision 2.
	s.put(t, "a", "2")
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
	w.want("0 @3 created")
	w.want("0 @3 2:a=1 3:a=2")
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("c"), PrevKv: true, WatchId: 7})
	w.want("7 @3 created")
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7})
	w.want(`-1 @3 created canceled "mvcc: duplicate watch ID provided on the WatchStream" 0`)
	w.create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")})
	w.want(`-1 @3 created canceled "mvcc: watcher range is empty" 0`)
	w.create(&pb.WatchCreateRequest{Key: []byte("b"), StartRevision: -1})
	w.want(`-1 @3 created canceled "etcdserver: mvcc: required revision has been compacted" 0`)
	w.cancel(0)
	w.want(`0 @3 canceled "" 0`)
	w.cancel(0) // No answer.
	s.put(t, "b", "1")
	w.want("7 @4 4:b=1")
	s.delete(t, "a", "c")
	w.want("7 @5 5:a-(2) 5:b-(1)")
	w.create(&pb.WatchCreateRequest{RangeEnd: []byte{0}, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}, StartRevision: 5})
	w.want("1 @5 created")
	w.cancel(7)
	w.want(`7 @5 canceled "" 0`)
	s.put(t, "z", "1")
	w.want("1 @6 6:z=1")
	w.create(&pb.WatchCreateRequest{Key: []byte("z"), StartRevision: 8})
	w.want("2 @6 created")
	s.put(t, "z", "2")
	w.want("1 @7 7:z=2")
	s.put(t, "z", "3")
	got := map[string]bool{short(w.next()): true, short(w.next()): true}
	if !got["1 @8 8:z=3"] || !got["2 @8 8:z=3"] {
		t.Fatal(got)
	}
}

// Watches of the same keys on several streams get the same events, each with its
// own id, and what others watch does not come between.
func TestWatchesOfOneKey(t *testing.T) {
	s := newSolo(t)
	one, two := s.watching(t), s.watching(t)
	for _, w := range []*watching{one, two} {
		for _, req := range []*pb.WatchCreateRequest{
			{Key: []byte("a"), WatchId: 300}, {Key: []byte("a")}, {Key: []byte("a"), PrevKv: true}, {Key: []byte("b")},
		} {
			w.create(req)
			w.next()
		}
	}
	s.put(t, "a", "0") // Revision 2.
	for revision := 3; revision < 40; revision += 3 {
		s.put(t, "a", "1")
		s.put(t, "b", "1")
		s.delete(t, "a", "")
	}
	for _, w := range []*watching{one, two} {
		got := map[int64][]string{}
		for len(got[300]) < 27 || len(got[0]) < 27 || len(got[1]) < 27 || len(got[2]) < 13 {
			r := w.next()
			if n := len(r.GetEvents()); r.GetHeader().GetMemberId() == 0 || r.GetHeader().GetRevision() != r.GetEvents()[n-1].GetKv().GetModRevision() {
				t.Fatal(r)
			}
			for _, e := range r.GetEvents() {
				got[r.GetWatchId()] = append(got[r.GetWatchId()], short(&pb.WatchResponse{Events: []*mvccpb.Event{e}}))
			}
		}
		if fmt.Sprint(got[300]) != fmt.Sprint(got[0]) || got[0][26] != "0 @0 41:a-" || got[1][26] != "0 @0 41:a-(1)" || got[2][12] != "0 @0 40:b=1" {
			t.Fatal(got)
		}
	}
}

func TestWatchCompacted(t *testing.T) {
	s := newSolo(t)
	for i := range 5 {
		s.put(t, "a", fmt.Sprint(i))
	}
	if _, err := s.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 4}); err != nil {
		t.Fatal(err)
	}
	w := s.watching(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3})
	w.want("0 @6 created")
	w.want(`0 @0 canceled "" 4`)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 4})
	w.want("1 @6 created")
	w.want("1 @6 4:a=2 5:a=3 6:a=4")
}

// A progress request is answered with what the store has when it comes, but not
// before every watch has sent what it must.
func TestWatchProgress(t *testing.T) {
	s := newSolo(t)
	w := s.watching(t)
	w.progress() // No watch: no answer.
	for i := range 2000 {
		s.put(t, "a", fmt.Sprint(i))
	}
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
	w.create(&pb.WatchCreateRequest{Key: []byte("b")})
	w.progress()
	var events int
	for {
		r := w.next()
		if r.GetWatchId() == noWatch {
			if r.GetHeader().GetRevision() != 2001 || events != 2000 {
				t.Fatalf("progress %d after %d events", r.GetHeader().GetRevision(), events)
			}
			break
		}
		events += len(r.GetEvents())
	}
	s.put(t, "c", "1")
	w.progress()
	w.want("-1 @2002")
	w.create(&pb.WatchCreateRequest{Key: []byte("b"), StartRevision: 2004})
	w.want("2 @2002 created")
	w.progress() // No answer.
	s.put(t, "b", "1")
	w.want("1 @2003 2003:b=1")
	s.log.setMaster("")
	w.cancel(2)
	w.want(`2 @2003 canceled "" 0`)
	w.progress() // Without a master this pod's own has to do.
	w.want("-1 @2003")
}

// sentResponses is a client that only listens.
type sentResponses struct {
	pb.Watch_WatchServer
	all []*pb.WatchResponse
}

func (s *sentResponses) Send(r *pb.WatchResponse) error {
	s.all = append(s.all, r)
	return nil
}

// A watch without changes is told of progress at the first tick after it began,
// and one with changes at the second after them.
func TestWatchProgressNotify(t *testing.T) {
	s := newSolo(t)
	sent := &sentResponses{}
	stream := &watchStream{
		pod: s.queue.pod, both: sent, watches: map[int64]*watch{},
		ready: readyWatches{wake: make(chan struct{}, 1)}, last: &atomic.Pointer[translated]{},
	}
	defer stream.close()
	if err := stream.create(t.Context(), &pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true}); err != nil {
		t.Fatal(err)
	}
	told := func(want bool) {
		t.Helper()
		sent.all = nil
		if err := stream.notifyProgress(t.Context()); err != nil {
			t.Fatal(err)
		}
		if (len(sent.all) == 1) != want {
			t.Errorf("progress %v, want %t", sent.all, want)
		}
	}
	told(true)
	s.put(t, "a", "1")
	<-stream.ready.wake
	if err := stream.deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	told(false)
	told(true)
}

// The events of one revision come together, in fragments if they must.
func TestWatchFragments(t *testing.T) {
	s := newSolo(t)
	big := strings.Repeat("x", 600<<10)
	const keys = 9
	for i := range keys {
		s.put(t, fmt.Sprintf("k%d", i), big)
	}
	w := s.watching(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), PrevKv: true, Fragment: true})
	w.next()
	other := s.watching(t)
	other.create(&pb.WatchCreateRequest{Key: []byte("k0"), RangeEnd: []byte("k5"), PrevKv: true})
	other.next()
	revision := s.delete(t, "k", "l")
	if r := other.next(); len(r.GetEvents()) != 5 || r.GetFragment() || r.GetHeader().GetRevision() != revision {
		t.Fatalf("%d events, fragment %v", len(r.GetEvents()), r.GetFragment())
	}
	events, more := 0, true
	for parts := 0; more; parts++ {
		r := w.next()
		if more = r.GetFragment(); more && len(r.GetEvents()) != 3 {
			t.Fatalf("part %d has %d events", parts, len(r.GetEvents()))
		}
		events += len(r.GetEvents())
	}
	if events != keys {
		t.Fatalf("%d events", events)
	}
}

// A caller has half of a pod's watches, and one more when one of them has ended.
func TestTooManyWatches(t *testing.T) {
	s := newSolo(t)
	w := s.watching(t)
	const most = 5_000
	for range most {
		w.create(&pb.WatchCreateRequest{Key: []byte("a")})
		w.next()
	}
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	w.want(`-1 @1 created canceled "etcdserver: too many requests" 0`)
	w.cancel(5)
	w.want(`5 @1 canceled "" 0`)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 5})
	w.want("5 @1 created")
}

// A stream that needs a leader ends when there is none for long, and a call at
// once; others go on.
func TestNeedsLeader(t *testing.T) {
	s := newSolo(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	needs, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := needs.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := needs.Recv(); err != nil {
		t.Fatal(err)
	}
	other := s.watching(t)
	other.create(&pb.WatchCreateRequest{Key: []byte("a")})
	other.want("0 @1 created")
	s.log.setMaster("")
	if _, err := pb.NewLeaseClient(s.conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{}); !is(err, rpctypes.ErrGRPCNoLeader) {
		t.Error(err)
	}
	if _, err := needs.Recv(); !is(err, rpctypes.ErrGRPCNoLeader) {
		t.Error(err)
	}
	s.log.setMaster("kv-0")
	s.put(t, "a", "1")
	other.want("0 @2 2:a=1")
}

// is compares errors as clients do.
func is(err, want error) bool { return status.Convert(err).String() == status.Convert(want).String() }
