package inbound

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/batondb/baton/internal/quota"
	"github.com/batondb/baton/internal/rawgrpc"
)

const (
	echoCall   = "/test/Echo"
	echoStream = "/test/Stream"
)

// echoes answers a unary call, and each message of a stream, with what it got.
var echoes = &grpc.ServiceDesc{
	ServiceName: "test", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		got := &wrapperspb.BytesValue{}
		if err := decode(got); err != nil { // It does not begin as a message does.
			return nil, status.Error(codes.ResourceExhausted, "refused")
		}
		return got, nil
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, both grpc.ServerStream) error {
		for {
			got := &wrapperspb.BytesValue{}
			if err := both.RecvMsg(got); err != nil {
				if err == io.EOF {
					return nil
				}
				return err
			}
			if err := both.SendMsg(got); err != nil {
				return err
			}
		}
	}}},
}

// fixture is a server behind a port.
type fixture struct {
	*Port
	address string
}

func newFixture(t *testing.T, patience time.Duration) *fixture {
	t.Helper()
	p := New(Options{
		Connections: quota.New("connections", 10), Calls: quota.New("calls", 4*slots), Bytes: quota.New("bytes", 4<<20),
		Patience: patience, MaxMessageBytes: 4 << 20,
		Fail:  func(err error) error { return status.Error(codes.ResourceExhausted, err.Error()) },
		Admit: func(ctx context.Context, _ string) (context.Context, error) { return ctx, nil },
	})
	p.Has(echoCall, Unary)
	p.Has(echoStream, Streaming)
	server := grpc.NewServer(append(p.ServerOptions(insecure.NewCredentials()), grpc.InitialWindowSize(64<<10), grpc.InitialConnWindowSize(1<<20))...)
	server.RegisterService(echoes, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); p.Run(ctx) }()
	go server.Serve(listener)
	f := &fixture{p, listener.Addr().String()}
	t.Cleanup(func() {
		cancel()
		server.Stop()
		<-ran
		for _, q := range []*quota.Quota{p.options.Connections, p.options.Calls, p.options.Bytes} {
			if used, _ := q.Used(); used != 0 {
				t.Errorf("%d %s were not given back", used, q.Name())
			}
		}
	})
	return f
}

func (f *fixture) raw(t *testing.T) *rawgrpc.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", f.address)
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

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func encoded(t *testing.T, size int) []byte {
	return must[[]byte](t)(proto.Marshal(wrapperspb.Bytes(make([]byte, size))))
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// Ordinary calls of all sizes pass, in one frame or in many, whatever their cuts.
func TestMessagesPass(t *testing.T) {
	f := newFixture(t, time.Minute)
	conn := must[*grpc.ClientConn](t)(grpc.NewClient(f.address, grpc.WithTransportCredentials(insecure.NewCredentials())))
	defer conn.Close()
	both := must[grpc.ClientStream](t)(conn.NewStream(within(t), &echoes.Streams[0], echoStream))
	for _, size := range []int{0, 1, 100, 16<<10 - 10, 16 << 10, 64 << 10, 1 << 20, 2<<20 - 20} {
		sent, got := wrapperspb.Bytes(make([]byte, size)), &wrapperspb.BytesValue{}
		if err := conn.Invoke(within(t), echoCall, sent, got); err != nil || len(got.Value) != size {
			t.Errorf("%d bytes: got %d, %v", size, len(got.Value), err)
		}
		if err := both.SendMsg(sent); err != nil {
			t.Fatal(err)
		}
		if err := both.RecvMsg(got); err != nil || len(got.Value) != size {
			t.Errorf("%d bytes in a stream: got %d, %v", size, len(got.Value), err)
		}
	}
	raw := f.raw(t)
	id := must[uint32](t)(raw.Begin(echoStream))
	for _, b := range append(rawgrpc.Message(encoded(t, 40)), rawgrpc.Message(encoded(t, 3))...) {
		if err := raw.Framer.WriteDataPadded(id, false, []byte{b}, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
	}
	if err := raw.Send(id, nil, true); err != nil {
		t.Fatal(err)
	}
	if end := must[rawgrpc.End](t)(raw.Wait(within(t), id)); end.Code != codes.OK {
		t.Errorf("a byte a frame: %+v", end)
	}
}

// Whoever has begun more bytes than there are for one is refused the next message,
// which names the reason; others, and what has begun, go on.
func TestUnfinishedBytes(t *testing.T) {
	f := newFixture(t, time.Minute)
	raw := f.raw(t)
	message := rawgrpc.Message(encoded(t, 1<<20-100))
	var begun []uint32
	for range 2 {
		id := must[uint32](t)(raw.Begin(echoCall))
		if err := raw.Send(id, message[:20_000], false); err != nil {
			t.Fatal(err)
		}
		begun = append(begun, id)
	}
	for _, method := range []string{echoCall, echoStream} {
		id := must[uint32](t)(raw.Begin(method))
		if err := raw.Send(id, message[:20_000], false); err != nil {
			t.Fatal(err)
		}
		if end := must[rawgrpc.End](t)(raw.Wait(within(t), id)); end.Code != codes.ResourceExhausted {
			t.Errorf("%s: the third MiB: %+v", method, end)
		}
	}
	// One whose first frame has only its length gets gRPC's own words.
	bare := must[uint32](t)(raw.Begin(echoCall))
	if err := raw.Send(bare, message[:prefixBytes+1], false); err != nil {
		t.Fatal(err)
	}
	if end := must[rawgrpc.End](t)(raw.Wait(within(t), bare)); end.Code != codes.ResourceExhausted || !strings.Contains(end.Message, "larger than max") {
		t.Errorf("its length alone: %+v", end)
	}
	small := must[uint32](t)(raw.Call(echoCall, encoded(t, 1000)))
	if end := must[rawgrpc.End](t)(raw.Wait(within(t), small)); end.Code != codes.OK {
		t.Errorf("a small one meanwhile: %+v", end)
	}
	if err := raw.Send(begun[0], message[20_000:], true); err != nil {
		t.Fatal(err)
	}
	if used, refused := f.options.Bytes.Used(); used > 2<<20 || refused != 3 {
		t.Errorf("%d bytes used, %d refused", used, refused)
	}
}

// A length that is cut in two frames cannot be changed any more.
func TestDividedPrefix(t *testing.T) {
	f := newFixture(t, time.Minute)
	raw := f.raw(t)
	id := must[uint32](t)(raw.Begin(echoCall))
	prefix := binary.BigEndian.AppendUint32([]byte{0}, 3<<20)
	if err := raw.Send(id, prefix[:2], false); err != nil {
		t.Fatal(err)
	}
	if err := raw.Send(id, prefix[2:], false); err != nil {
		t.Fatal(err)
	}
	if end := must[rawgrpc.End](t)(raw.Wait(within(t), id)); end.Code != codes.Unavailable {
		t.Errorf("%+v", end)
	}
}

// Whatever of a call does not arrive, the call ends; a stream may be silent between
// its messages.
func TestLate(t *testing.T) {
	f := newFixture(t, 200*time.Millisecond)
	raw := f.raw(t)
	message := rawgrpc.Message(encoded(t, 100_000))
	silent := must[uint32](t)(raw.Begin(echoStream))
	if err := raw.Send(silent, rawgrpc.Message(encoded(t, 10)), false); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method string
		sent   int
		want   codes.Code
	}{
		{echoCall, 0, codes.ResourceExhausted}, {echoCall, 3, codes.Unknown}, {echoCall, 5, codes.Unknown}, {echoCall, 60_000, codes.Unknown}, {echoStream, 3, codes.OK}, {echoStream, 50_000, codes.Internal},
	} {
		id := must[uint32](t)(raw.Begin(test.method))
		if test.sent > 0 {
			if err := raw.Send(id, message[:test.sent], false); err != nil {
				t.Fatal(err)
			}
		}
		if end := must[rawgrpc.End](t)(raw.Wait(within(t), id)); end.Code != test.want {
			t.Errorf("%s after %d bytes: %+v", test.method, test.sent, end)
		}
	}
	if err := raw.Send(silent, nil, true); err != nil {
		t.Fatal(err)
	}
	if end := must[rawgrpc.End](t)(raw.Wait(within(t), silent)); end.Code != codes.OK {
		t.Errorf("a silent stream: %+v", end)
	}
	if f.Late() != 6 {
		t.Errorf("%d were late", f.Late())
	}
	// A frame that stops in its middle ends the connection.
	id := must[uint32](t)(raw.Begin(echoCall))
	if err := raw.Framer.WriteRawFrame(http2.FrameData, 0, id, message[:100]); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write([]byte{0, 10, 0, 0, 0, 0, 0, 0, byte(id), 1}); err != nil {
		t.Fatal(err)
	}
	if end := must[rawgrpc.End](t)(raw.Wait(within(t), id)); end.Code != codes.Unavailable {
		t.Errorf("half a frame: %+v", end)
	}
}

// Calls that only begin are bounded, and so are connections.
func TestCallsAndConnections(t *testing.T) {
	f := newFixture(t, time.Minute)
	raw := f.raw(t)
	var last uint32
	for range 2*slots + 1 {
		last = must[uint32](t)(raw.Begin(echoCall))
	}
	end := must[rawgrpc.End](t)(raw.Wait(within(t), last))
	if end.Code != codes.ResourceExhausted || !strings.Contains(end.Message, "calls") {
		t.Errorf("%+v", end)
	}
	for range 4 {
		other := f.raw(t)
		id := must[uint32](t)(other.Begin(echoStream))
		if err := other.Send(id, nil, true); err != nil {
			t.Fatal(err)
		}
		must[rawgrpc.End](t)(other.Wait(within(t), id))
	}
	conn := must[net.Conn](t)(net.Dial("tcp", f.address))
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a sixth connection")
	}
}
