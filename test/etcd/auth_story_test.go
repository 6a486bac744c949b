package etcd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/etcd/servers"
)

// story is what etcd's own tests of users do with etcd's client, on one system, and what
// came of it.
type story struct {
	*testing.T
	pods  *cluster.Cluster
	lines []string
}

func (s *story) tell(what string, err error) {
	s.lines = append(s.lines, fmt.Sprintf("%s: %s", what, rpctypes.ErrorDesc(err)))
}

// as is a client; "" is nobody.
func (s *story) as(user string) *clientv3.Client {
	s.Helper()
	config := clientv3.Config{Endpoints: s.pods.Endpoints(), DialTimeout: 10 * time.Second, Username: user}
	if user != "" {
		config.Password = user + "s"
	}
	client, err := clientv3.New(config)
	if err != nil {
		s.Fatalf("%s logs in: %v", user, err)
	}
	s.Cleanup(func() { client.Close() })
	return client
}

func (s *story) put(client *clientv3.Client, key string) {
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	_, err := client.Put(ctx, key, "v")
	s.tell(client.Username+" puts "+key, err)
}

func (s *story) must(_ any, err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// restart kills all pods at once, and starts them again.
func (s *story) restart() {
	cluster.Kill(s.pods.Pods...)
	if err := s.pods.Start(); err != nil {
		s.Fatal(err)
	}
	for _, p := range s.pods.Pods {
		cluster.Eventually(s, p.Name+" is back", cluster.Patience, func(ctx context.Context) error {
			_, err := pb.NewAuthClient(p.Conn()).AuthStatus(ctx, &pb.AuthStatusRequest{})
			return err
		})
	}
}

func (s *story) grant(client *clientv3.Client, role, key, end string, kind authpb.Permission_Type) {
	_, err := client.RoleGrantPermission(s.Context(), role, key, end, clientv3.PermissionType(kind))
	s.tell(fmt.Sprintf("role %s gets %s of %q to %q", role, kind, key, end), err)
}

// begin is how users come into being, and what their roles may not permit.
func (s *story) begin() (root, alice *clientv3.Client) {
	ctx, nobody := s.Context(), s.as("")
	before, err := nobody.Put(ctx, "hoo", "v")
	s.must(before, err)
	added, err := nobody.UserAdd(ctx, "root", "roots")
	s.must(added, err)
	s.tell(fmt.Sprintf("users do not move the revision: %t", added.Header.Revision == before.Header.Revision), nil)
	_, err = nobody.AuthEnable(ctx)
	s.tell("enable without the role root", err)
	_, err = nobody.UserGrantRole(ctx, "root", "root")
	s.tell("root without a role root", err)
	_, err = nobody.RoleAdd(ctx, "root")
	s.tell("a role root", err)
	s.grant(nobody, "root", "foo", "", authpb.READ)
	for _, role := range []string{"z", "a", "m"} {
		s.must(nobody.RoleAdd(ctx, role))
	}
	s.must(nobody.UserAdd(ctx, "alice", "alices"))
	for _, role := range []string{"z", "a"} {
		s.must(nobody.UserGrantRole(ctx, "alice", role))
	}
	user, err := nobody.UserGet(ctx, "alice")
	s.tell(fmt.Sprint("alice has ", user.Roles), err)
	for _, keys := range [][2]string{{"", ""}, {"", "\x00"}, {"", "b"}, {"b", "a"}, {"a", "a"}, {"\x00", "\x00"}, {"\x00\x00", "\x00"}, {"foo", ""}} {
		s.grant(nobody, "m", keys[0], keys[1], authpb.READWRITE)
	}
	s.grant(nobody, "none", "a", "", authpb.READ)
	s.grant(nobody, "a", "foo", "", authpb.READWRITE)
	_, err = nobody.AuthEnable(ctx)
	s.tell("enable", err)
	return s.as("root"), s.as("alice")
}

// change is how rights change while clients go on.
func (s *story) change(root, alice *clientv3.Client) {
	ctx := s.Context()
	s.put(s.as(""), "foo")
	s.put(root, "foo")
	s.put(alice, "foo")
	s.put(alice, "hoo")
	s.grant(root, "a", "hoo", "", authpb.READWRITE)
	s.put(alice, "hoo")
	s.must(root.RoleRevokePermission(ctx, "a", "hoo", ""))
	s.put(alice, "hoo")
	s.grant(root, "z", "hoo", "", authpb.READWRITE)
	s.must(root.UserRevokeRole(ctx, "alice", "a"))
	s.put(alice, "foo")
	s.put(alice, "hoo")
	s.grant(root, "z", "/p/", clientv3.GetPrefixRangeEnd("/p/"), authpb.READWRITE)
	s.grant(root, "z", "/p2/", clientv3.GetPrefixRangeEnd("/p2/"), authpb.READWRITE)
	for _, key := range []string{"/p/", "/p/1", "/p0", "/p2/1", "/p"} {
		s.put(alice, key)
	}
	s.must(root.RoleDelete(ctx, "z"))
	user, err := root.UserGet(ctx, "alice")
	s.tell(fmt.Sprint("alice has ", user.Roles), err)
	s.put(alice, "/p/1")
	s.must(root.UserGrantRole(ctx, "alice", "a"))
}

// lease is what users do with leases, and that one ends without anybody.
func (s *story) lease(root, alice *clientv3.Client) {
	ctx := s.Context()
	granted, err := root.Grant(ctx, 2)
	s.must(granted, err)
	s.must(root.Put(ctx, "short", "v", clientv3.WithLease(granted.ID)))
	own, err := alice.Grant(ctx, 1000)
	s.must(own, err)
	s.must(alice.Put(ctx, "foo", "v", clientv3.WithLease(own.ID)))
	for _, who := range []string{"hers alone", "root's as well"} {
		_, err = alice.TimeToLive(ctx, own.ID, clientv3.WithAttachedKeys())
		s.tell("the keys of a lease, "+who, err)
		_, err = alice.TimeToLive(ctx, own.ID)
		s.tell("its time, "+who, err)
		_, err = alice.Put(ctx, "foo", "v", clientv3.WithLease(own.ID))
		s.tell("another key, "+who, err)
		s.must(root.Put(ctx, "bar", "v", clientv3.WithLease(own.ID)))
	}
	_, err = alice.Revoke(ctx, own.ID)
	s.tell("its end", err)
	_, err = root.KeepAliveOnce(ctx, own.ID)
	s.tell("root keeps it alive", err)
	_, err = root.Revoke(ctx, own.ID)
	s.tell("root ends it", err)
	cluster.Eventually(s, "the short lease ends", cluster.Patience, func(ctx context.Context) error {
		got, err := root.Get(ctx, "short")
		if err == nil && len(got.Kvs) > 0 {
			err = fmt.Errorf("its key is there")
		}
		return err
	})
	left, err := root.TimeToLive(ctx, granted.ID)
	s.tell(fmt.Sprintf("it has %d s left", left.TTL), err)
}

// restarts is what outlives one.
func (s *story) restarts(root, alice *clientv3.Client) {
	ctx := s.Context()
	before, err := root.AuthStatus(ctx)
	s.must(before, err)
	s.restart()
	after, err := root.AuthStatus(ctx)
	s.tell(fmt.Sprintf("enabled %t, at the same revision: %t", after.Enabled, after.AuthRevision == before.AuthRevision), err)
	s.put(alice, "foo")
	s.put(alice, "bar")
	nobody, all := s.as(""), sync.WaitGroup{}
	failed := make(chan error, 20)
	for range cap(failed) {
		all.Go(func() {
			_, err := nobody.Authenticate(ctx, "alice", "alices")
			failed <- err
		})
	}
	all.Wait()
	close(failed)
	for err := range failed {
		s.tell("one of many logins at once", err)
	}
}

// end is the end of a user, and of access control, under a watch and a restart.
func (s *story) end(root, alice *clientv3.Client) {
	ctx, cancel := context.WithTimeout(s.Context(), cluster.Patience)
	defer cancel()
	watched := root.Watch(ctx, "late")
	bob := s.Context()
	s.must(root.UserAdd(bob, "bob", "bobs"))
	s.must(root.UserGrantRole(bob, "bob", "a"))
	bobs := s.as("bob")
	s.put(bobs, "foo")
	s.must(root.UserDelete(bob, "bob"))
	s.put(bobs, "foo")
	_, err := root.UserDelete(ctx, "root")
	s.tell("delete root", err)
	_, err = root.UserRevokeRole(ctx, "root", "root")
	s.tell("take its role", err)
	_, err = alice.AuthDisable(ctx)
	s.tell("alice disables", err)
	_, err = root.AuthDisable(ctx)
	s.tell("disable", err)
	s.put(alice, "hoo")
	s.restart()
	s.put(s.as(""), "hoo")
	s.put(root, "late")
	select {
	case event := <-watched:
		s.tell(fmt.Sprintf("the watch has %d events", len(event.Events)), event.Err())
	case <-ctx.Done():
		s.tell("the watch", ctx.Err())
	}
}

// TestAuthStories does what etcd's own tests of users do (tests/common/auth_test.go,
// tests/integration/v3_auth_test.go and server/auth of etcd 3.7), on the real etcd and on
// Baton: each step has the same outcome. Beside it are TestEtcdctlAuthPrintsTheSame, and
// rights.TestSameRights.
func TestAuthStories(t *testing.T) {
	told := map[string][]string{}
	for name, pods := range map[string]*cluster.Cluster{"etcd": servers.Etcd(t), "baton": servers.Baton(t, 3)} {
		s := &story{T: t, pods: pods}
		root, alice := s.begin()
		s.change(root, alice)
		s.lease(root, alice)
		s.restarts(root, alice)
		s.end(root, alice)
		told[name] = s.lines
	}
	if !slices.Equal(told["etcd"], told["baton"]) {
		t.Errorf("etcd:\n%s\n\nbaton:\n%s", strings.Join(told["etcd"], "\n"), strings.Join(told["baton"], "\n"))
	}
	if len(told["etcd"]) < 60 {
		t.Errorf("only %d steps", len(told["etcd"]))
	}
}
