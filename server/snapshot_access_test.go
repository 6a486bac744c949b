package server

import (
	"context"
	"testing"

	"google.golang.org/grpc"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// readSnapshot is the stream of a snapshot to somebody who reads at once.
type readSnapshot struct {
	grpc.ServerStream
	ctx  context.Context
	read func()
}

func (r *readSnapshot) Context() context.Context { return r.ctx }
func (r *readSnapshot) Send(*kvv1.SnapshotResponse) error {
	r.read()
	return nil
}

// A snapshot ends with the role of who takes it.
//
// Scenario: S47
func TestRevokingEndsSnapshots(t *testing.T) {
	p := newPod(t, "kv-0").use()
	for range 4 {
		p.store.apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("k"), Value: filled(MaxValueBytes)}}})
	}
	if err := p.store.Flush(t.Context(), p.store.Applied()); err != nil {
		t.Fatal(err)
	}
	role := &kvv1.GrantRole{User: "alice", Role: access.Root}
	change := func(change *kvv1.AuthChange) {
		p.store.apply(&kvv1.Command{Identity: &kvv1.Identity{Pod: true}, Command: &kvv1.Command_Auth{Auth: change}})
	}
	change(&kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "alice"}}})
	change(&kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: role}})
	p.store.enable()
	parts := 0
	stream := &readSnapshot{ctx: caller.With(t.Context(), caller.Caller{User: "alice"}), read: func() {
		if parts++; parts == 2 {
			change(&kvv1.AuthChange{Change: &kvv1.AuthChange_RevokeRole{RevokeRole: &kvv1.RevokeRole{User: "alice", Role: access.Root}}})
		}
	}}
	err := p.core.statusOf((&maintenanceService{core: p.core}).Snapshot(&kvv1.SnapshotRequest{}, stream))
	wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED)
	if parts != 2 {
		t.Errorf("%d parts were sent", parts)
	}
}
