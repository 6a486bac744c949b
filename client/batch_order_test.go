package client

import (
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// oneRefusal is a stream that refuses the batch with the id 1, and ends.
type oneRefusal struct {
	grpc.ClientStream
	told bool
}

func (s *oneRefusal) RecvMsg(m any) error {
	if s.told {
		return io.EOF
	}
	s.told = true
	*m.(*answer) = answer{id: 1, err: &kvv1.Error{Code: uint32(codes.Unavailable), Reason: kvv1.ErrorReason_ERROR_REASON_NO_MASTER}}
	return nil
}

// With one batch in flight the next one must not go before one that was refused
// is back at the head: at no moment between the two is there room for it.
func TestARefusedBatchLeavesNoRoomForTheNext(t *testing.T) {
	for range 3000 {
		b := &Batcher{
			client:  &Client{pods: &pods{kick: make(chan struct{}, 1)}},
			options: BatchOptions{InFlight: 1, Timeout: time.Minute}, wake: make(chan struct{}, 1),
		}
		first, second := &batch{id: 1, created: time.Now(), sends: 1, writes: make([]pending, 1)}, &batch{id: 2}
		b.flight, b.waiting = map[uint64]*batch{1: first}, []*batch{second}
		var ended atomic.Bool
		var early *batch
		var sender sync.WaitGroup
		sender.Go(func() {
			for !ended.Load() && early == nil {
				early, _ = b.take()
			}
		})
		var worked bool
		b.receive(&oneRefusal{}, &worked)
		ended.Store(true)
		sender.Wait()
		if early == second {
			t.Fatal("the second batch was sent while the first was being put back")
		}
	}
}
