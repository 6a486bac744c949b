package store

import (
	"context"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// The end of a lease that is decided while its client ends it and grants the id
// again must not end the second one, also when both came from the disk.
func TestTheEndOfALeaseDoesNotEndTheNextOfItsID(t *testing.T) {
	dir := tempDir(t)
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	index := uint64(0)
	apply := func(c *kvv1.Command) *kvv1.Result {
		index++
		return s.Apply(index, 1, []*kvv1.Command{c})[0]
	}
	grant := &kvv1.Command{Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{Id: 7, TtlSeconds: 1}}}
	revoke := func(granted uint64) *kvv1.Command {
		return &kvv1.Command{Command: &kvv1.Command_Revoke{Revoke: &kvv1.RevokeRequest{Id: 7, GrantedIndex: granted}}}
	}
	granted := func() uint64 {
		t.Helper()
		leases, _ := s.Leases()
		if len(leases) != 1 {
			t.Fatalf("leases %v", leases)
		}
		return leases[0].GetGrantedIndex()
	}
	apply(grant)
	first := granted()
	apply(revoke(0))
	apply(grant)
	apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("k"), Lease: 7}}})
	for _, where := range []string{"in memory", "from the disk"} {
		if r := apply(revoke(first)); r.GetError().GetReason() != kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND {
			t.Fatalf("%s: the end of the first: %v", where, r)
		}
		if second := granted(); second == first || second == 0 {
			t.Fatalf("%s: granted at %d and at %d", where, first, second)
		}
		if err := s.Flush(context.Background(), s.Applied()); err != nil {
			t.Fatal(err)
		}
		closeChecked(t, s)
		if s, err = Open(Options{Dir: dir}); err != nil {
			t.Fatal(err)
		}
	}
	if r := apply(revoke(granted())); r.GetRevoke().GetDeleted() != 1 {
		t.Fatalf("the end of the second: %v", r)
	}
	closeChecked(t, s)
}
