package logstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

const patient = 10 * time.Second

func confirmed(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error { return nil }

func admitted(req *raft.AppendEntriesRequest) error {
	req.LeaderCommitIndex = req.PrevLogEntry
	return nil
}

// ends is a connection's two ends.
func ends(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func entry(index uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{Term: 2, PrevLogEntry: index - 1, Entries: []*raft.Log{{Index: index, Term: 2, Data: []byte("x")}}}
}

func within[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patient):
		t.Fatalf("%s does not come", what)
		panic("unreachable")
	}
}

// follower answers what Serve gives it, until the test ends.
func follower(t *testing.T, conn net.Conn, answer func(raft.RPC)) (served chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	rpcs := make(chan raft.RPC)
	served = make(chan error, 1)
	from := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("kv-0/x"), Addr: []byte("kv-0/x")}
	go func() { served <- Serve(ctx, conn, from, admitted, rpcs) }()
	go func() {
		for {
			select {
			case rpc := <-rpcs:
				answer(rpc)
			case <-ctx.Done():
				return
			}
		}
	}()
	return served
}

func TestAnswersInOrder(t *testing.T) {
	a, b := ends(t)
	served := follower(t, b, func(rpc raft.RPC) {
		req := rpc.Command.(*raft.AppendEntriesRequest)
		if string(req.ID) != "kv-0/x" || string(req.Addr) != "kv-0/x" || req.ProtocolVersion != 3 {
			t.Errorf("it comes from %+v", req.RPCHeader)
		}
		last := req.Entries[0].Index
		if req.LeaderCommitIndex != last-1 {
			t.Errorf("entry %d was not admitted", last)
		}
		if last == 50 {
			rpc.Respond(nil, errors.New("the library does not look at it"))
			return
		}
		rpc.Respond(&raft.AppendEntriesResponse{Term: 2, LastLog: last, Success: true}, nil)
	})
	p := NewPipeline(a, patient, confirmed)
	defer p.Close()
	const n = 100
	go func() {
		for i := uint64(1); i <= n; i++ {
			if _, err := p.AppendEntries(entry(i), new(raft.AppendEntriesResponse)); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := uint64(1); i <= n; i++ {
		f := within(t, "an answer", p.Consumer())
		if f.Request().Entries[0].Index != i || f.Error() != nil || f.Start().IsZero() {
			t.Fatalf("answer %d: %+v", i, f)
		}
		if resp := f.Response(); resp.Success != (i != 50) || i != 50 && resp.LastLog != i {
			t.Fatalf("answer %d: %+v", i, resp)
		}
	}
	p.Close()
	if err := within(t, "the other end's end", served); err != nil {
		t.Error(err)
	}
}

// What a pipeline sends without answers is bounded, and its end ends all.
func TestNoAnswers(t *testing.T) {
	for name, end := range map[string]func(p *Pipeline, conn net.Conn){
		"closed":     func(p *Pipeline, _ net.Conn) { p.Close() },
		"cut":        func(_ *Pipeline, conn net.Conn) { conn.Close() },
		"timeout":    func(*Pipeline, net.Conn) {},
		"malformed":  func(_ *Pipeline, conn net.Conn) { conn.Write(make([]byte, answerBytes)) },
		"in pieces":  func(_ *Pipeline, conn net.Conn) { conn.Write(make([]byte, 3)) },
		"refused by": nil,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := ends(t)
			confirm := confirmed
			if end == nil {
				confirm = func(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error {
					return errors.New("the log has failed")
				}
				end = func(_ *Pipeline, conn net.Conn) {
					conn.Write(appendAnswer(nil, &raft.AppendEntriesResponse{Success: true}))
				}
			}
			p := NewPipeline(a, 500*time.Millisecond, confirm)
			results := make(chan error, maxInFlight+1)
			var last raft.AppendFuture
			for i := range uint64(maxInFlight) {
				f, err := p.AppendEntries(entry(i+1), new(raft.AppendEntriesResponse))
				if err != nil {
					t.Fatal(err)
				}
				last = f
			}
			go func() {
				_, err := p.AppendEntries(entry(maxInFlight+1), new(raft.AppendEntriesResponse))
				results <- err
			}()
			select {
			case err := <-results:
				t.Fatalf("one more than %d was sent: %v", maxInFlight, err)
			case <-time.After(20 * time.Millisecond):
			}
			end(p, b)
			within(t, "the pipeline's end", p.Closed())
			if err := within(t, "the end of what waits", results); err == nil {
				t.Error("something was sent after the end")
			}
			if last.Error() == nil {
				t.Error("what was never answered has no error")
			}
		})
	}
}

// An answer to nothing would be taken for that to the next request.
func TestUnaskedAnswer(t *testing.T) {
	a, b := ends(t)
	p := NewPipeline(a, patient, confirmed)
	b.Write(appendAnswer(nil, &raft.AppendEntriesResponse{Success: true}))
	within(t, "the pipeline's end", p.Closed())
}

// An answer is given out after it was confirmed.
func TestConfirm(t *testing.T) {
	a, b := ends(t)
	follower(t, b, func(rpc raft.RPC) { rpc.Respond(&raft.AppendEntriesResponse{Success: true, Term: 2}, nil) })
	gate := make(chan struct{})
	p := NewPipeline(a, patient, func(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
		if req.Entries[0].Index != 5 || !resp.Success {
			t.Errorf("asked about %+v %+v", req, resp)
		}
		<-gate
		return nil
	})
	defer p.Close()
	if _, err := p.AppendEntries(entry(5), new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Consumer():
		t.Error("given out before it was confirmed")
	case <-time.After(30 * time.Millisecond):
	}
	close(gate)
	within(t, "the answer", p.Consumer())
}

func TestServeEnds(t *testing.T) {
	for name, end := range map[string]struct {
		do   func(cancel func(), conn net.Conn)
		want error
	}{
		"context":   {func(cancel func(), _ net.Conn) { cancel() }, nil},
		"closed":    {func(_ func(), conn net.Conn) { conn.Close() }, nil},
		"malformed": {func(_ func(), conn net.Conn) { fmt.Fprintf(conn, "GET / HTTP/1.1\r\n\r\n") }, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := ends(t)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			served := make(chan error, 1)
			go func() { served <- Serve(ctx, b, raft.RPCHeader{}, admitted, make(chan raft.RPC)) }()
			end.do(cancel, a)
			if err := within(t, "the end", served); !errors.Is(err, end.want) {
				t.Errorf("%v, want %v", err, end.want)
			}
			if _, err := bufio.NewReader(a).ReadByte(); err == nil {
				t.Error("the connection is open")
			}
		})
	}
}
