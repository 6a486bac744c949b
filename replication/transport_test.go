package replication

import (
	"context"
	"testing"

	"github.com/hashicorp/raft"
)

// A heartbeat that ends this pod's leadership must not do so beside the goroutine that
// proposes.
func TestAHeartbeatOfANewerTermWaitsItsTurn(t *testing.T) {
	c := newCluster(t, 1).boot()
	r := c.pods["kv-0"].node.engine.Load().replica.raft
	t0 := &transport{received: make(chan raft.RPC, 1)}
	t0.ctx, t0.cancel = context.WithCancel(t.Context())
	t0.raft.Store(r)
	fast := 0
	beat := t0.heartbeats(func(raft.RPC) { fast++ })
	term := r.CurrentTerm()
	for _, older := range []uint64{term - 1, term} {
		beat(raft.RPC{Command: &raft.AppendEntriesRequest{Term: older}})
	}
	if fast != 2 || len(t0.received) != 0 {
		t.Errorf("%d of 2 heartbeats of this term or one before went the short way", fast)
	}
	beat(raft.RPC{Command: &raft.AppendEntriesRequest{Term: term + 1}})
	if fast != 2 || len(t0.received) != 1 {
		t.Error("a heartbeat of a newer term went the short way")
	}
	t0.cancel()
	beat(raft.RPC{Command: &raft.AppendEntriesRequest{Term: term + 1}}) // Nobody takes it; it returns.
}
