package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	kvd "github.com/batondb/baton/test/cluster"
)

// secure adds users to a cluster and turns access control on: root, and alice with her
// own keys.
func secure(t *testing.T, c *client.Client) {
	t.Helper()
	for _, step := range []struct {
		change   *kvv1.AuthChange
		password string
	}{
		{&kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "root"}}}, "roots"},
		{&kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: "root", Role: "root"}}}, ""},
		{&kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "alice"}}}, "alices"},
		{&kvv1.AuthChange{Change: &kvv1.AuthChange_AddRole{AddRole: &kvv1.AddRole{Name: "hers"}}}, ""},
		{&kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: "alice", Role: "hers"}}}, ""},
		{&kvv1.AuthChange{Change: &kvv1.AuthChange_GrantPermission{GrantPermission: &kvv1.GrantPermission{
			Role: "hers", Permission: &kvv1.Permission{Kind: kvv1.Permission_KIND_READWRITE, Key: []byte("alice/"), RangeEnd: []byte("alice0")},
		}}}, ""},
		{&kvv1.AuthChange{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{}}}, ""},
	} {
		if _, err := c.ChangeAuth(t.Context(), step.change, step.password); err != nil {
			t.Fatalf("%v: %v", step.change, err)
		}
	}
}

func as(t *testing.T, pods *kvd.Cluster, user string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Endpoints: pods.Endpoints(), User: user, Password: user + "s"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A client logs in by itself, also after its token has ended, and goes on through a
// change of master; so do its watches and batches.
//
// Scenario: S47
func TestLogin(t *testing.T) {
	pods, nobody := startKvd(t)
	master := awaitWhole(t, pods)
	secure(t, nobody)
	alice, root := as(t, pods, "alice"), as(t, pods, "root")
	if _, err := nobody.Put(t.Context(), "alice/k", nil); !errors.Is(err, client.ErrUnauthenticated) {
		t.Errorf("a put by nobody: %v", err)
	}
	if _, err := alice.Put(t.Context(), "alice/k", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Put(t.Context(), "bob/k", []byte("1")); !errors.Is(err, client.ErrPermissionDenied) {
		t.Errorf("a put elsewhere: %v", err)
	}
	if _, err := alice.Range(t.Context(), client.Prefix("")); !errors.Is(err, client.ErrPermissionDenied) {
		t.Errorf("a range of everything: %v", err)
	}
	for response, err := range alice.Watch(t.Context(), client.Prefix("bob/")) {
		if response != nil && len(response.GetEvents()) > 0 || err != nil && !errors.Is(err, client.ErrPermissionDenied) {
			t.Errorf("a watch elsewhere: %v, %v", response, err)
		}
	}
	batch, err := alice.NewBatcher(client.BatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer batch.Close()
	if _, err := batch.Put(t.Context(), "bob/k", nil); !errors.Is(err, client.ErrPermissionDenied) {
		t.Errorf("a put elsewhere in a batch: %v", err)
	}

	kvd.Kill(master) // Its status needs a user by now.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := alice.Put(ctx, "alice/k", []byte("2")); err != nil {
		t.Errorf("with the next master: %v", err)
	}
	if _, err := batch.Put(ctx, "alice/k", []byte("2")); err != nil {
		t.Errorf("in a batch, with the next master: %v", err)
	}
	// The password is the same, but the tokens end.
	set := &kvv1.AuthChange{Change: &kvv1.AuthChange_SetPassword{SetPassword: &kvv1.SetPassword{Name: "alice"}}}
	if _, err := root.ChangeAuth(ctx, set, "alices"); err != nil {
		t.Fatal(err)
	}
	if _, err := batch.Put(ctx, "alice/k", []byte("3")); err != nil {
		t.Errorf("in a batch, after the token has ended: %v", err)
	}
	if _, err := alice.Put(ctx, "alice/k", []byte("4")); err != nil {
		t.Errorf("after the token has ended: %v", err)
	}
}

func TestPasswordsNeedTLS(t *testing.T) {
	c, err := client.New(client.Options{Endpoints: []string{"kv-client.shop.svc:7400"}, User: "a", Password: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := client.New(client.Options{Endpoints: []string{"127.0.0.1:7400"}, User: "a"}); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("a user without a password: %v", err)
	}
	if _, err := client.New(client.Options{Endpoints: []string{"127.0.0.1:7400"}, User: "a", Password: "b", TokenFile: "c"}); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("a user and a token: %v", err)
	}
}
