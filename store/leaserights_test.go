package store

import (
	"fmt"
	"testing"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func leased(key string, lease int64) *kvv1.PutRequest {
	return &kvv1.PutRequest{Key: []byte(key), Lease: lease}
}

func (s *secured) grant(id int64) {
	s.as(nil, &kvv1.Command{Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{Id: id, TtlSeconds: 1000}}})
}

// compareLeaseRights looks at the keys of all leases of which something is remembered.
func (s *secured) compareLeaseRights(when string) {
	s.t.Helper()
	v, err := s.view(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	defer v.close()
	if s.rights.leases.state != s.Access() {
		return
	}
	for lease, one := range s.rights.leases.leases {
		for user := range one.users {
			keys, err := v.mayWriteLease(s.Access(), caller.Caller{User: user}, lease, v.revision)
			if err != nil || keys != one.keys {
				s.t.Fatalf("%s: %s may write all %d keys of lease %d, it is said: %d, %v", when, user, one.keys, lease, keys, err)
			}
		}
	}
}

// What is remembered of leases is what looking would find, whatever came in between.
func TestWhatIsRememberedOfLeases(t *testing.T) {
	seeds(t, 4, nil, func(t *testing.T, seed uint64) {
		s, r := newSecured(t), newRand(seed)
		s.auth(s.permission("b", "j", "k5"))
		users := []*string{nil, new("a"), new("a"), new("b")}
		remembered := 0
		for step := range 600 {
			user, key, lease := users[r.IntN(len(users))], []byte(fmt.Sprintf("k%d", r.IntN(9))), int64(r.IntN(4))
			if r.IntN(20) == 0 {
				key = []byte("j")
			}
			command := &kvv1.Command{Command: &kvv1.Command_Put{Put: leased(string(key), lease)}}
			switch r.IntN(12) {
			case 0:
				s.grant(1 + lease)
			case 1:
				command.Command = &kvv1.Command_Revoke{Revoke: &kvv1.RevokeRequest{Id: lease}}
			case 2:
				command.Command = &kvv1.Command_Delete{Delete: &kvv1.DeleteRequest{Key: key, RangeEnd: []byte("k3")}}
			case 3:
				command.Command = &kvv1.Command_Batch{Batch: &kvv1.WriteBatch{Writes: []*kvv1.Write{
					{Write: &kvv1.Write_Put{Put: leased(string(key), lease)}}, {Write: &kvv1.Write_Put{Put: leased("k1", 1+lease%3)}},
				}}}
			case 4:
				if r.IntN(4) == 0 {
					s.auth(s.permission("b", "j", fmt.Sprintf("k%d", r.IntN(9))))
				}
			}
			s.as(user, command)
			s.compareLeaseRights(fmt.Sprintf("step %d, after %v", step, command))
			remembered += len(s.rights.leases.leases)
		}
		if remembered == 0 {
			t.Error("nothing was remembered")
		}
	})
}

// Once a user has attached a key to a lease, the lease's other keys are not looked at
// again, however many the user attaches.
func TestLeasesAreLookedAtOnce(t *testing.T) {
	s := newSecured(t)
	s.grant(1)
	for i := range 10 {
		if result := s.as(new("a"), &kvv1.Command{Command: &kvv1.Command_Put{Put: leased(fmt.Sprintf("k%d", i), 1)}}); result.GetError() != nil {
			t.Fatal(result)
		}
		if keys, known := s.rights.leases.of(s.Access(), "a", 1); keys != i+1 || !known {
			t.Fatalf("after %d keys it is known that there are %d: %v", i+1, keys, known)
		}
	}
	s.as(nil, &kvv1.Command{Command: &kvv1.Command_Put{Put: leased("x", 1)}})
	if result := s.as(new("a"), &kvv1.Command{Command: &kvv1.Command_Put{Put: leased("k", 1)}}); result.GetError().GetReason() != kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED {
		t.Errorf("beside a key of another's: %v", result)
	}
}

// Leases are listed for whoever may read all keys that they have at that moment, at once,
// and not for how many keys ever.
func TestRightsToListLeases(t *testing.T) {
	s := newSecured(t)
	s.grant(1)
	s.grant(2)
	put := func(key string, lease int64) {
		t.Helper()
		if result := s.as(nil, &kvv1.Command{Command: &kvv1.Command_Put{Put: leased(key, lease)}}); result.GetError() != nil {
			t.Fatal(result)
		}
	}
	list := func(user string, times int) error {
		leases, _ := s.Leases()
		var all []*kvv1.Lease
		for range times {
			all = append(all, leases...)
		}
		return s.MayReadLeases(t.Context(), s.Access(), caller.Caller{User: user}, all)
	}
	for key := range 500 {
		put(fmt.Sprintf("k%d", key), 1)
	}
	if err := list("a", 1); err != nil {
		t.Errorf("with keys that the user may read: %v", err)
	}
	if err := list("b", 1); refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED {
		t.Errorf("with keys that the user may not read: %v", err)
	}
	if err := list("nobody", 0); refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED {
		t.Errorf("for somebody who is no user: %v", err)
	}
	put("x", 2)
	if err := list("a", 1); refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED {
		t.Errorf("with one that the user may not read: %v", err)
	}
	put("x", 0)
	if err := list("a", 1); err != nil {
		t.Errorf("once that has left its lease: %v", err)
	}
	if err := list("a", maxLeaseKeysRead/500+1); refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_TOO_LARGE {
		t.Errorf("with too many keys: %v", err)
	}
}

// The first keys of a lease are found, in order, without a look at the others, in memory as
// on the disk.
func TestTheFirstKeysOfALease(t *testing.T) {
	s := newSecured(t)
	s.grant(1)
	var want []string
	put := func(from, to, step int, lease int64) {
		for i := from; i < to; i += step {
			s.as(nil, &kvv1.Command{Command: &kvv1.Command_Put{Put: leased(fmt.Sprintf("k%03d", i), lease)}})
		}
	}
	put(0, 100, 2, 1)
	if err := s.Flush(t.Context(), s.index); err != nil {
		t.Fatal(err)
	}
	put(1, 100, 10, 1)
	put(10, 100, 4, 0)
	put(20, 30, 2, 1)
	for i := range 100 {
		detached := i >= 10 && (i-10)%4 == 0 && !(i >= 20 && i < 30)
		if i%2 == 0 && !detached || i%10 == 1 {
			want = append(want, fmt.Sprintf("k%03d", i))
		}
	}
	for _, limit := range []int{0, 1, 7, len(want), 1000} {
		keys, err := s.LeaseKeys(1, limit)
		some := want
		if limit > 0 {
			some = want[:min(limit, len(want))]
		}
		if err != nil || fmt.Sprintf("%s", keys) != fmt.Sprint(some) {
			t.Errorf("at most %d: %s, %v, want %v", limit, keys, err, some)
		}
	}
}
