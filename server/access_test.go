package server

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/access"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// enable turns access control on, with the user root.
func (s *testStore) enable() {
	for _, change := range []*kvv1.AuthChange{
		{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: access.Root}}},
		{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: access.Root, Role: access.Root}}},
		{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{TokenKey: []byte("key")}}},
	} {
		s.apply(&kvv1.Command{Command: &kvv1.Command_Auth{Auth: change}})
	}
}

// A pod that has not heard yet that access control is on, because it has just started,
// gives nobody's orders to the others.
func TestOrdersOnAPodThatLags(t *testing.T) {
	p := newPod(t, "kv-0").use()
	enabled := false
	p.log.reading = func() { // The pod applies what it lacks.
		if !enabled {
			enabled = true
			p.store.enable()
		}
	}
	_, err := kvv1.NewMaintenanceServiceClient(p.conn).HandOver(within5s(t), &kvv1.HandOverRequest{})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("a stranger hands the baton over: %v", err)
	}
}
