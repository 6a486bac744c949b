package raftio

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/entry"
	"github.com/batondb/baton/replication/internal/machinetest"
)

// leader is Raft with one member, which leads.
func leader(t testing.TB) *raft.Raft {
	leads := make(chan bool, 1)
	c := raft.DefaultConfig()
	c.LocalID, c.NotifyCh, c.Logger = "kv-0/a", leads, hclog.NewNullLogger()
	address, transport := raft.NewInmemTransport("kv-0/a")
	store, snapshots := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	if err := raft.BootstrapCluster(c, store, store, snapshots, transport, raft.Configuration{
		Servers: []raft.Server{{ID: c.LocalID, Address: address}},
	}); err != nil {
		t.Fatal(err)
	}
	machine := &fsm{sm: machinetest.Open(t, t.TempDir()), applied: &AppliedIndex{}, trail: &Trail{}, members: func(uint64, raft.Configuration) {}, fail: func(err error) { t.Error(err) }}
	r, err := raft.NewRaft(c, machine, store, store, snapshots, transport)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Shutdown().Error() })
	if !<-leads {
		t.Fatal("it does not lead")
	}
	return r
}

// A heartbeat that ends this pod's leadership must not do so beside the goroutine that
// proposes.
func TestAHeartbeatOfANewerTermWaitsItsTurn(t *testing.T) {
	r := leader(t)
	t0 := &Transport{received: make(chan raft.RPC, 1)}
	t0.ending.ctx, t0.ending.cancel = context.WithCancel(t.Context())
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
	t0.ending.cancel()
	beat(raft.RPC{Command: &raft.AppendEntriesRequest{Term: term + 1}}) // Nobody takes it; it returns.
}

// A master whose disk is damaged ends, and sends nothing of the damage.
func TestNoDamageIsSent(t *testing.T) {
	var failed error
	tr := &Transport{fail: func(err error) { failed = err }}
	data := []byte{entry.Version}
	good := &raft.Log{Index: 7, Term: 1, Data: data, Extensions: entry.Checksum(data)}
	bad := &raft.Log{Index: 8, Term: 1, Data: []byte{entry.Version ^ 1}, Extensions: entry.Checksum(data)}
	if err := tr.check(&raft.AppendEntriesRequest{Entries: []*raft.Log{good}}); err != nil || failed != nil {
		t.Error(err, failed)
	}
	p := &Pipeline{transport: tr}
	if _, err := p.send(&raft.AppendEntriesRequest{Entries: []*raft.Log{good, bad}}, nil); !errors.Is(err, entry.ErrCorrupt) || !errors.Is(failed, err) {
		t.Error(err, failed)
	}
	if err := tr.AppendEntries("kv-1/a", "kv-1/a", &raft.AppendEntriesRequest{Entries: []*raft.Log{bad}}, nil); !errors.Is(err, entry.ErrCorrupt) {
		t.Error(err)
	}
}
