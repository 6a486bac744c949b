package client_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/client/clienttest"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// lapses ends streams as a pod does when the token of their caller ends.
type lapses struct {
	end    chan struct{}
	ended  atomic.Int32 // Streams.
	method string
}

type untilLapse struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *untilLapse) Context() context.Context { return s.ctx }

func (l *lapses) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if !strings.HasSuffix(info.FullMethod, l.method) {
		return handle(service, stream)
	}
	select {
	case <-l.end: // It began with the next token.
		return handle(service, stream)
	default:
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	handled := make(chan error, 1)
	go func() { handled <- handle(service, &untilLapse{stream, ctx}) }()
	select {
	case err := <-handled:
		return err
	case <-l.end:
	}
	cancel()
	<-handled
	l.ended.Add(1)
	return clienttest.Error(codes.Unauthenticated, kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, "the token has expired")
}

// Watches whose token ends go on with the next one where they were, all at once: that of a
// password, or of a file that has another one by then. With the same token in the file,
// they end, and say why.
func TestWatchesOutlastTheirToken(t *testing.T) {
	for name, next := range map[string]string{"password": "", "file": "d.e.f", "file that stays": "a.b.c"} {
		t.Run(name, func(t *testing.T) {
			l := &lapses{end: make(chan struct{}), method: "/Watch"}
			fake, err := clienttest.Start(1, grpc.ChainStreamInterceptor(l.stream))
			if err != nil {
				t.Fatal(err)
			}
			defer fake.Close()
			file := filepath.Join(t.TempDir(), "token")
			options := client.Options{Endpoints: fake.Endpoints(), TokenFile: file}
			write := func(token string) {
				if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("a.b.c")
			if name == "password" {
				secure(t, connect(t, fake.Endpoints()...))
				options = client.Options{Endpoints: fake.Endpoints(), User: "alice", Password: "alices"}
			}
			c, err := client.New(options)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx := within(t, 20*time.Second)
			var events []<-chan *kvv1.WatchResponse
			var ends []<-chan error
			for range 8 {
				event, end := watchInto(ctx, c, client.Key("alice/k"))
				if first := <-event; len(first.GetEvents()) != 0 {
					t.Fatal(first)
				}
				events, ends = append(events, event), append(ends, end)
			}
			write(next)
			close(l.end)
			eventually(t, "all streams end", func() bool { return l.ended.Load() == 8 })
			if name == "file that stays" {
				for _, end := range ends {
					if err := <-end; err == nil || !strings.Contains(err.Error(), "expired") {
						t.Errorf("it ended with %v", err)
					}
				}
				return
			}
			if _, err := c.Put(ctx, "alice/k", nil); err != nil {
				t.Fatal(err)
			}
			for i := range events {
				got := 0
				for got == 0 {
					select {
					case event := <-events[i]:
						got += len(event.GetEvents())
					case err := <-ends[i]:
						t.Fatalf("watch %d ended: %v", i, err)
					}
				}
			}
		})
	}
}

// A login that takes longer than an attempt says nothing about the write that waits for
// it: that is not sent, and its outcome is not unknown.
func TestSlowLogin(t *testing.T) {
	fake, nobody := cluster(t, 1)
	if _, err := nobody.Put(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	secure(t, nobody)
	fake.Forget() // A request id that is older than that may have been applied.
	var logins atomic.Int64
	quick := make(chan struct{})
	fake.Before(func(_ int, method string) error {
		if !strings.HasSuffix(method, "Login") {
			return nil
		}
		if logins.Add(1) == 8 {
			close(quick)
		}
		<-quick
		return nil
	})
	c, err := client.New(client.Options{Endpoints: fake.Endpoints(), User: "alice", Password: "alices", AttemptTimeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Put(within(t, 20*time.Second), "alice/k", nil); err != nil {
		t.Error(err)
	}
}
