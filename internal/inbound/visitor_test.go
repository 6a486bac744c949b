package inbound

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/batondb/baton/internal/quota"
	"github.com/batondb/baton/internal/rawgrpc"
)

// From one address only so much of no use comes at once, and then so much a second.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, one := newVisitor("somebody"), &Address{}
		v.conns = 1
		for range idleBurst / callCost {
			if until := v.spend(callCost, one); !until.IsZero() {
				t.Fatal("a pause with credit left")
			}
		}
		for range idleRate {
			v.spend(frameCost, one)
		}
		if pause := time.Until(v.spend(frameCost, one)); pause != time.Second+costTime {
			t.Errorf("a pause of %s", pause)
		}
		time.Sleep(2 * time.Second)
		if until := v.spend(frameCost, one); !until.IsZero() || v.rested() {
			t.Errorf("a pause until %s after one", until)
		}
	})
}

// Others behind the same address do not wait for what they have not sent.
func TestOnlyWhoSpendsWaits(t *testing.T) {
	p := New(Options{})
	from := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}
	hostile, honest := p.arrive(from), p.arrive(from)
	for range 2 * idleBurst {
		hostile.spend(frameCost)
	}
	if hostile.until.Load() == 0 || honest.until.Load() != 0 {
		t.Errorf("%d and %d", hostile.until.Load(), honest.until.Load())
	}
	honest.rest()
	p.Close() // Nobody waits any more.
	hostile.rest()
	if p.Slowed() != 1 {
		t.Errorf("%d waited", p.Slowed())
	}
}

// What one connection owes is not what another behind the same address waits for, once
// it has spent something itself; a new one waits for what one owes that is closed.
func TestConnectionsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Connections: quota.New("connections", 100), Calls: quota.New("calls", 100)})
		defer p.Close()
		arrive := func() *Address {
			if err := p.options.Connections.Take("10.0.0.1", 1); err != nil {
				t.Fatal(err)
			}
			return p.arrive(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1})
		}
		wait := func(a *Address) time.Duration {
			begun := time.Now()
			a.rest()
			return time.Since(begun)
		}
		hostile, honest := arrive(), arrive()
		hostile.spend(idleBurst + 20*idleRate)
		honest.spend(frameCost)
		if got := wait(honest); got != 2*costTime {
			t.Errorf("the honest one waits for %s", got)
		}
		time.Sleep(newTime)
		p.leave(hostile)
		hostile.spend(20 * idleRate) // By calls that end only now.
		again := arrive()
		again.spend(connectionCost)
		honest.spend(frameCost)
		if got := wait(honest); got != 2*costTime {
			t.Errorf("the honest one waits for %s later", got)
		}
		if got := wait(again); got < 29*time.Second {
			t.Errorf("the hostile one comes back after %s", got)
		}
	})
}

// However many connections an address has, no more is read from them together.
func TestConnectionsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{})
		var read atomic.Int64
		for range 9 {
			one := p.arrive(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1})
			go func() {
				for p.open.Err() == nil {
					one.spend(frameCost)
					one.rest()
					read.Add(1)
				}
			}()
		}
		const during = 20
		time.Sleep(during * time.Second)
		got := read.Load()
		p.Close()
		synctest.Wait()
		if most := int64(idleBurst + during*idleRate); got > most+9 || got < most*9/10 {
			t.Errorf("%d frames of nine connections were read in %d s, want %d", got, during, most)
		}
	})
}

// connect makes an ordinary client.
func (f *fixture) connect(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn := must[*grpc.ClientConn](t)(grpc.NewClient(f.address, grpc.WithTransportCredentials(insecure.NewCredentials())))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Clients that work a lot are not slowed down: callers by the hundred, each of whose
// calls is given up sooner or later, streams with answers of all sizes, and what gRPC
// sends by itself: pings, settings, window updates.
func TestHeavyClientsAreNotSlowed(t *testing.T) {
	f := newFixture(t, time.Minute)
	conn := f.connect(t)
	var all sync.WaitGroup
	for n := range 100 {
		all.Go(func() {
			for i := range 30 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n*i)*10*time.Microsecond)
				_ = conn.Invoke(ctx, echoCall, wrapperspb.Bytes(make([]byte, 100*n)), &wrapperspb.BytesValue{}) // It may be too late.
				cancel()
			}
		})
	}
	all.Go(func() {
		both, err := conn.NewStream(within(t), &echoes.Streams[0], echoStream)
		if err != nil {
			t.Error(err)
			return
		}
		for i := range 5000 {
			sent, got := wrapperspb.Bytes(make([]byte, i%40*1000)), &wrapperspb.BytesValue{}
			if err := both.SendMsg(sent); err != nil {
				t.Error(err)
				return
			}
			if err := both.RecvMsg(got); err != nil {
				t.Error(err)
				return
			}
		}
	})
	all.Wait()
	if slowed := f.Slowed(); slowed > 0 {
		t.Errorf("slowed down %d times", slowed)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.visitors { // The calls given up, and a few frames.
		if spent := time.Until(v.paid) / costTime; spent > 3500 {
			t.Errorf("%d was spent", spent)
		}
	}
}

// Once an address has used up what it may, whatever of no use comes from one of its
// connections makes that one wait, and calls of another go on.
func TestUselessFrames(t *testing.T) {
	for name, send := range map[string]func(f *http2.Framer, raw *rawgrpc.Conn, i int) error{
		"pings":          func(f *http2.Framer, _ *rawgrpc.Conn, _ int) error { return f.WritePing(true, [8]byte{}) },
		"settings":       func(f *http2.Framer, _ *rawgrpc.Conn, _ int) error { return f.WriteSettings() },
		"window updates": func(f *http2.Framer, _ *rawgrpc.Conn, _ int) error { return f.WriteWindowUpdate(0, 1) },
		"priorities":     func(f *http2.Framer, _ *rawgrpc.Conn, _ int) error { return f.WritePriority(1, http2.PriorityParam{}) },
		"no gRPC": func(f *http2.Framer, _ *rawgrpc.Conn, i int) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: rawgrpc.Field("x", "y"), EndHeaders: true})
		},
		"resets": func(f *http2.Framer, raw *rawgrpc.Conn, _ int) error {
			id, err := raw.Begin(echoCall)
			if err != nil {
				return err
			}
			return f.WriteRSTStream(id, http2.ErrCodeCancel)
		},
		"pieces": func(f *http2.Framer, raw *rawgrpc.Conn, i int) error {
			if i == 1 {
				if _, err := raw.Begin(echoStream); err != nil {
					return err
				}
				return raw.Send(3, rawgrpc.Message(make([]byte, 1<<20))[:prefixBytes], false)
			}
			return f.WriteData(3, false, []byte{0})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, time.Minute)
			raw, other := f.raw(t), f.connect(t)
			call := func() {
				t.Helper()
				if err := other.Invoke(within(t), echoCall, wrapperspb.Bytes(nil), &wrapperspb.BytesValue{}); err != nil {
					t.Fatal(err)
				}
			}
			call()
			first := must[uint32](t)(raw.Call(echoCall, encoded(t, 1)))
			must[rawgrpc.End](t)(raw.Wait(within(t), first))
			f.mu.Lock()
			v := f.visitors["127.0.0.1"]
			v.mu.Lock()
			v.paid = time.Now().Add(idleBurst*costTime + time.Hour)
			for c := range f.conns {
				c.address.owed = v.paid
			}
			v.mu.Unlock()
			f.mu.Unlock()
			go func() {
				for i := 1; send(raw.Framer, raw, i) == nil; i++ { // Until the test closes it.
				}
			}()
			for ctx := within(t); f.Slowed() == 0; {
				if ctx.Err() != nil {
					t.Fatal("not slowed down")
				}
				call()
			}
			call()
			raw.Close()
			if f.Slowed() != 1 {
				t.Errorf("waited %d times", f.Slowed())
			}
		})
	}
}

// Answers that nobody reads count as calls, also those whose handler has returned.
func TestUnreadAnswersCount(t *testing.T) {
	f := newFixture(t, time.Minute)
	raw := f.raw(t)
	for range 2*slots + 4 { // Four of them fit into what the client takes by itself.
		must[uint32](t)(raw.Call(echoCall, encoded(t, 15_000)))
	}
	one := must[uint32](t)(raw.Call(echoCall, encoded(t, 10)))
	if end := must[rawgrpc.End](t)(raw.Wait(within(t), one)); end.Code != codes.ResourceExhausted {
		t.Errorf("one more: %+v", end)
	}
	if err := f.connect(t).Invoke(within(t), echoCall, wrapperspb.Bytes(nil), &wrapperspb.BytesValue{}); err == nil {
		t.Error("one of another connection")
	}
}

// sink is a connection whose other end takes everything.
type sink struct{ net.Conn }

func (sink) Write(p []byte) (int, error) { return len(p), nil }

// The frames that gRPC writes are followed however they are cut.
func TestAnswersAreFollowed(t *testing.T) {
	written := rawgrpc.Many(func(f *http2.Framer) {
		for id := range uint32(50) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*id + 1, BlockFragment: make([]byte, id), EndHeaders: true})
			_ = f.WritePing(true, [8]byte{})
			_ = f.WriteData(2*id+1, false, make([]byte, 10*id))
			if id%2 == 0 {
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*id + 1, EndHeaders: true, EndStream: true})
			} else {
				_ = f.WriteRSTStream(2*id+1, http2.ErrCodeCancel)
			}
		}
	})
	for cut := 1; cut < 50; cut++ {
		p := New(Options{})
		c := newConn(sink{}, p, p.arrive(&net.TCPAddr{}))
		for id := range uint32(51) {
			c.streams.begin(2*id+1, newCall(c.address.visitor))
		}
		for rest := written; len(rest) > 0; {
			n := min(cut, len(rest))
			if _, err := c.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if _, left := c.streams.calls[101]; len(c.streams.calls) != 1 || !left {
			t.Fatalf("in pieces of %d: %d calls are left", cut, len(c.streams.calls))
		}
		if earned := c.earned.Load(); earned != firstEarned+50*2*earnedByFrame {
			t.Fatalf("in pieces of %d: %d were earned", cut, earned)
		}
	}
}

// A call that its client gives up before its handler begins has none.
func TestGivenUp(t *testing.T) {
	v := newVisitor("somebody")
	c := newCall(v)
	v.calls.Store(1)
	ctx := context.WithValue(t.Context(), callKey{}, c)
	entered := must[*Call](t)(Enter(ctx))
	c.Leave() // Its end is written.
	if v.calls.Load() != 1 {
		t.Error("its handler runs, and it counts no more")
	}
	entered.Leave()
	if _, err := Enter(ctx); err == nil || v.calls.Load() != 0 {
		t.Errorf("%v, %d calls", err, v.calls.Load())
	}
}
