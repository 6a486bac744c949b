package store

import (
	"testing"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// secured applies commands as a pod's to a store with access control on, whose user "a"
// has the role "a", which permits "k" up to "l".
type secured struct {
	*Store
	t     *testing.T
	index uint64
}

func newSecured(t *testing.T) *secured {
	t.Helper()
	st, err := Open(Options{Dir: tempDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeChecked(t, st) })
	s := &secured{Store: st, t: t}
	for _, user := range []string{access.Root, "a", "b"} {
		s.auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: user}}})
		s.auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_AddRole{AddRole: &kvv1.AddRole{Name: user}}})
		s.auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: user, Role: user}}})
	}
	s.auth(s.permission("a", "k", "l"))
	s.auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{TokenKey: []byte("key")}}})
	return s
}

func (s *secured) permission(role, key, end string) *kvv1.AuthChange {
	return &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantPermission{GrantPermission: &kvv1.GrantPermission{
		Role: role, Permission: &kvv1.Permission{Kind: kvv1.Permission_KIND_READWRITE, Key: []byte(key), RangeEnd: []byte(end)},
	}}}
}

func (s *secured) auth(change *kvv1.AuthChange) {
	s.t.Helper()
	if result := s.as(nil, &kvv1.Command{Command: &kvv1.Command_Auth{Auth: change}}); result.GetError() != nil {
		s.t.Fatal(result)
	}
}

// as applies a user's command; nil: a pod's.
func (s *secured) as(user *string, command *kvv1.Command) *kvv1.Result {
	s.index++
	if command.Identity = (&kvv1.Identity{Pod: true}); user != nil {
		command.Identity = &kvv1.Identity{User: *user}
	}
	return s.Apply(s.index, 1, []*kvv1.Command{command})[0]
}

// A watch that ended because its caller may no longer read says how far it was with what
// it has returned, and does not go on when the right comes back: it would leave out
// what was withheld.
func TestAWatchThatEnded(t *testing.T) {
	s := newSecured(t)
	watcher, err := s.Watch(&kvv1.WatchRequest{Key: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	watcher.For(caller.Caller{User: "a"})
	before := watcher.Progress()
	s.as(nil, put("k", "withheld"))
	s.auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_RevokePermission{RevokePermission: &kvv1.RevokePermission{Role: "a", Key: []byte("k"), RangeEnd: []byte("l")}}})
	for _, when := range []string{"without the right", "with the right again"} {
		response, _, err := watcher.Poll(t.Context())
		if response != nil || refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED {
			t.Errorf("%s: %v, %v", when, response, err)
		}
		if now := watcher.Progress(); now != before {
			t.Errorf("%s: it claims to be at %d, and was at %d", when, now, before)
		}
		s.auth(s.permission("a", "k", "l"))
	}
}
