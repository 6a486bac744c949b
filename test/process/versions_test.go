package process

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

var olderKvd = flag.String("older", "", "a kvd of an earlier version, for one of the pods; empty: the tests of two versions are skipped")

// anyKey is read by nobody.
var anyKey = &kvv1.RangeRequest{Key: []byte("k")}

// among starts pods of the earlier version, and rolls the others out to this one.
func among(t *testing.T) (c *cluster.Cluster, older *cluster.Pod, newer string, knows *kvv1.PodStatus) {
	t.Helper()
	if *olderKvd == "" {
		t.Skip("no -older: see make test-older")
	}
	c, err := cluster.New(t.TempDir(), *olderKvd, pods)
	if err != nil {
		t.Fatal(err)
	}
	c.EndWith(t)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	whole(t, c)
	older, newer = c.Pods[2], cluster.Program(t, cluster.Kvd)
	for _, p := range c.Pods[:2] {
		if err := cluster.Stop(p); err != nil {
			t.Fatal(err)
		}
		p.Command[0] = newer
		start(t, p)
		whole(t, c)
	}
	status, err := older.Status(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	return c, older, newer, status.GetPods()[0]
}

// While a pod runs a version without users, nobody can add one, on any pod and under any
// master, and all goes on; once there are some, such a pod does not serve, with its volume
// or without.
//
// Scenario: S26
func TestUsersAmongOlderPods(t *testing.T) {
	c, older, newer, knows := among(t)
	if knows.GetAccessControl() {
		t.Skip("the older version knows users: test/etcd/rights is the test for it")
	}
	for _, master := range c.Pods {
		handOver(t, c.Pods[0], master.Name)
		for _, p := range c.Pods {
			put(t, p, "k", "by "+p.Name+" under "+master.Name)
			wantAll(t, p, map[string]string{"k": "by " + p.Name + " under " + master.Name})
			wantTooOld(t, addUser(t, p, "root"), p, older)
		}
	}
	cluster.Kill(older)
	if err := addUser(t, c.Pods[0], "root"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("while the older pod is away: %v", err)
	}
	older.Command[0] = newer
	start(t, older)
	whole(t, c)
	enable(t, older)
	for _, p := range c.Pods {
		wantNobody(t, p)
	}
	staysOut(t, older, *olderKvd)
	if err := older.Wipe(); err != nil {
		t.Fatal(err)
	}
	staysOut(t, older, *olderKvd)
	older.Command[0] = newer
	start(t, older)
	cluster.Eventually(t, older.Name+" is back", cluster.Patience, older.Ready)
	wantNobody(t, older)
}

// The same of tenants, which the first versions with users do not know.
//
// Scenario: S26
func TestTenantsAmongOlderPods(t *testing.T) {
	c, older, newer, knows := among(t)
	if !knows.GetAccessControl() || knows.GetTenants() {
		t.Skip("the older version knows no users, or tenants as well")
	}
	enable(t, c.Pods[0])
	set := &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: &kvv1.Tenant{
		Name: "shop", Namespaces: []string{"shop"}, Prefix: []byte("shop/"), Rights: kvv1.Permission_KIND_READWRITE,
	}}}}
	for _, master := range c.Pods {
		handOver(t, c.Pods[0], master.Name)
		for _, p := range c.Pods {
			wantTooOld(t, changeAuth(t, p, set, ""), p, older)
			wantNobody(t, p)
		}
	}
	cluster.Kill(older)
	older.Command[0] = newer
	start(t, older)
	cluster.Eventually(t, "a tenant", cluster.Patience, func(context.Context) error { return changeAuth(t, older, set, "") })
	staysOut(t, older, *olderKvd)
}

// wantTooOld: a change is refused, by a newer pod because of the older one.
func wantTooOld(t *testing.T, err error, p, older *cluster.Pod) {
	t.Helper()
	code := status.Code(err)
	if p == older {
		if code != codes.Unimplemented && code != codes.InvalidArgument {
			t.Errorf("a change through the older pod: %v", err)
		}
	} else if code != codes.FailedPrecondition || !strings.Contains(err.Error(), older.Name) {
		t.Errorf("a change through %s: %v", p.Name, err)
	}
}

// asRoot is the context of root, if it can log in.
func asRoot(t *testing.T, p *cluster.Pod) context.Context {
	t.Helper()
	login, err := kvv1.NewAuthServiceClient(p.Conn()).Login(t.Context(), &kvv1.LoginRequest{User: "root", Password: "secret"})
	if err != nil {
		return t.Context()
	}
	return metadata.AppendToOutgoingContext(t.Context(), "token", login.GetToken())
}

func handOver(t *testing.T, through *cluster.Pod, to string) {
	t.Helper()
	cluster.Eventually(t, "hand over to "+to, cluster.Patience, func(context.Context) error {
		ctx, cancel := context.WithTimeout(asRoot(t, through), cluster.Patience)
		defer cancel()
		_, err := kvv1.NewMaintenanceServiceClient(through.Conn()).HandOver(ctx, &kvv1.HandOverRequest{To: to})
		return err
	})
}

func changeAuth(t *testing.T, p *cluster.Pod, change *kvv1.AuthChange, password string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(asRoot(t, p), cluster.Patience)
	defer cancel()
	_, err := kvv1.NewAuthServiceClient(p.Conn()).ChangeAuth(ctx, &kvv1.ChangeAuthRequest{Change: change, Password: password})
	return err
}

func addUser(t *testing.T, p *cluster.Pod, name string) error {
	t.Helper()
	return changeAuth(t, p, &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: name}}}, "secret")
}

func enable(t *testing.T, p *cluster.Pod) {
	t.Helper()
	if err := addUser(t, p, "root"); err != nil {
		t.Fatal(err)
	}
	for _, change := range []*kvv1.AuthChange{
		{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: "root", Role: "root"}}},
		{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{}}},
	} {
		if err := changeAuth(t, p, change, ""); err != nil {
			t.Fatal(err)
		}
	}
}

// wantNobody: nobody reads, and root does.
func wantNobody(t *testing.T, p *cluster.Pod) {
	t.Helper()
	if _, err := kv(p).Range(t.Context(), anyKey); status.Code(err) != codes.Unauthenticated {
		t.Errorf("nobody reads on %s: %v", p.Name, err)
	}
	if _, err := kv(p).Range(asRoot(t, p), anyKey); err != nil {
		t.Errorf("root on %s: %v", p.Name, err)
	}
}

// staysOut starts a pod with a version that does not know users, and returns once it has
// said that it cannot use the data. Until then it answers nobody.
func staysOut(t *testing.T, p *cluster.Pod, kvd string) {
	t.Helper()
	cluster.Kill(p)
	before := len(p.Printed())
	p.Command[0] = kvd
	start(t, p)
	cluster.Eventually(t, p.Name+" refuses the data", cluster.Patience, func(ctx context.Context) error {
		for _, read := range []kvv1.Consistency{kvv1.Consistency_CONSISTENCY_LOCAL, kvv1.Consistency_CONSISTENCY_LINEARIZABLE} {
			got, err := kv(p).Range(ctx, &kvv1.RangeRequest{Key: []byte("k"), Read: &kvv1.ReadOptions{Consistency: read}})
			if err == nil {
				t.Fatalf("nobody reads %v on %s, which knows no users", got, p.Name)
			}
		}
		if said := p.Printed()[before:]; !strings.Contains(said, "format") {
			return fmt.Errorf("it says %s", said)
		}
		return nil
	})
	if err := p.Ready(t.Context()); err == nil {
		t.Errorf("%s is ready", p.Name)
	}
	cluster.Kill(p)
}
