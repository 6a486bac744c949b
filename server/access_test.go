package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
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

// Nor does it take a token for nothing.
func TestATokenOnAPodThatLags(t *testing.T) {
	p, master := newPod(t, "kv-1"), newPod(t, "kv-0")
	wire(master, p)
	var once sync.Once
	p.log.reading = func() { once.Do(p.store.enable) }
	p.log.propose = func(_ context.Context, command *kvv1.Command) (*kvv1.Result, error) {
		once.Do(p.store.enable) // By the time it is applied, at the latest.
		return p.store.apply(command), nil
	}
	token := newToken([]byte("key"), access.Root, 2, time.Now().Add(tokenTTL)) // The first change is at the auth revision 2.
	ctx := metadata.AppendToOutgoingContext(within5s(t), etcdTokenKey, token)
	if _, err := p.kv().Put(ctx, &kvv1.PutRequest{Key: []byte("k")}); err != nil {
		t.Errorf("a put by root: %v", err)
	}
}

// Nor does it fall over one if it has never heard of users.
func TestATokenWhereNobodyIs(t *testing.T) {
	if _, err := readToken(nil, newToken([]byte("key"), access.Root, 2, time.Now().Add(tokenTTL)), time.Now()); !errors.Is(err, errTokenInvalid) {
		t.Errorf("%v", err)
	}
}

// The first user is refused until every member is known to have a version with users: one
// without would stop at the change. Those after it are not.
//
// Scenario: S26
func TestTheFirstUserNeedsAllVersions(t *testing.T) {
	one, other := newPod(t, "kv-0"), newPod(t, "kv-1")
	wire(one, other)
	add := func(name string) error {
		change := &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: name, NoPassword: true}}}
		_, err := kvv1.NewAuthServiceClient(one.conn).ChangeAuth(within5s(t), &kvv1.ChangeAuthRequest{Change: change})
		return err
	}
	other.log.old = true
	if code, reason, _ := info(add("a")); reason != "VERSION_TOO_OLD" {
		t.Errorf("with an old pod: %v %s", code, reason)
	}
	if one.store.Access() != nil {
		t.Error("it was added all the same")
	}
	other.log.old = false
	if err := add("a"); err != nil {
		t.Fatal(err)
	}
	if err := other.peer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := add("b"); err != nil {
		t.Errorf("later, with a pod that does not answer: %v", err)
	}
}

// No password reaches the log, and no hash a client.
func TestPasswordsStayHere(t *testing.T) {
	p := newPod(t, "kv-0").use()
	applied := ""
	propose := p.log.propose
	p.log.propose = func(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error) {
		applied += command.String()
		return propose(ctx, command)
	}
	client := kvv1.NewAuthServiceClient(p.conn)
	add := &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "a", PasswordHash: []byte("chosen")}}}
	if _, err := client.ChangeAuth(within5s(t), &kvv1.ChangeAuthRequest{Change: add, Password: "geheim"}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(applied, "geheim") || strings.Contains(applied, "chosen") || !strings.Contains(applied, "$2a$") {
		t.Errorf("the log has %s", applied)
	}
	users, err := client.ListUsers(within5s(t), &kvv1.ListUsersRequest{})
	if err != nil || len(users.GetUsers()) != 1 || users.GetUsers()[0].GetPasswordHash() != nil {
		t.Errorf("clients get %v, %v", users, err)
	}
	long := &kvv1.ChangeAuthRequest{Change: add, Password: strings.Repeat("p", maxPasswordBytes+1)}
	if _, err := client.ChangeAuth(within5s(t), long); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a password that bcrypt would cut: %v", err)
	}
}

// What is not in the table is denied, whether access control is on or not.
func TestAnUnlistedMethodIsDenied(t *testing.T) {
	i := instrumented{core: newPod(t, "kv-0").use().core}
	i.identify = i.core.identify
	if _, err := i.admitted(t.Context(), needs["/baton.kv.v1.KVService/Forgotten"]); !errors.Is(err, errDenied) {
		t.Errorf("a method that is not in the table: %v", err)
	}
}

// A path that is not in the table is not served, even to this machine.
func TestAnUnlistedPathIsNotServed(t *testing.T) {
	mux := listedMux{http.NewServeMux()}
	for _, pattern := range []string{"GET /livez", "GET /forgotten"} {
		mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
	}
	for path, want := range map[string]int{"/livez": http.StatusOK, "/forgotten": http.StatusNotFound} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}

// Access control is not enabled if nobody could disable it again, and nobody is the last
// who could, and leaves.
func TestEnablingLocksNobodyOut(t *testing.T) {
	p := newPod(t, "kv-0").use()
	auth := kvv1.NewAuthServiceClient(p.conn)
	change := func(change *kvv1.AuthChange, password string) error {
		ctx := within5s(t)
		if state := p.store.Access(); state.Enabled() {
			ctx = metadata.AppendToOutgoingContext(ctx, etcdTokenKey, newToken(state.TokenKey(), "alice", state.User("alice").GetGeneration(), time.Now().Add(time.Minute)))
		}
		_, err := auth.ChangeAuth(ctx, &kvv1.ChangeAuthRequest{Change: change, Password: password})
		return err
	}
	add := func(user string, without bool) *kvv1.AuthChange {
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: user, NoPassword: without}}}
	}
	grant := func(user string) *kvv1.AuthChange {
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: user, Role: access.Root}}}
	}
	revoke := func(user string) *kvv1.AuthChange {
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_RevokeRole{RevokeRole: &kvv1.RevokeRole{User: user, Role: access.Root}}}
	}
	remove := func(user string) *kvv1.AuthChange {
		return &kvv1.AuthChange{Change: &kvv1.AuthChange_DeleteUser{DeleteUser: &kvv1.DeleteUser{Name: user}}}
	}
	enable := &kvv1.AuthChange{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{}}}
	for _, step := range []struct {
		change *kvv1.AuthChange
		want   codes.Code
	}{
		{enable, codes.FailedPrecondition}, // There is no root.
		{add(access.Root, true), codes.OK}, {grant(access.Root), codes.OK}, {add("alice", false), codes.OK},
		{enable, codes.InvalidArgument},
		{grant("alice"), codes.OK},
		{enable, codes.OK},
		{revoke("alice"), codes.InvalidArgument}, {remove("alice"), codes.InvalidArgument},
		{remove("nobody"), codes.NotFound}, {revoke(access.Root), codes.FailedPrecondition},
		{add("bob", false), codes.OK}, {grant("bob"), codes.OK}, {remove("alice"), codes.OK},
	} {
		if err := change(step.change, "secret"); status.Code(err) != step.want {
			t.Errorf("%v: %v, want %s", step.change, err, step.want)
		}
	}
}
