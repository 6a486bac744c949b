package servers

import (
	"context"
	"os/exec"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/batondb/baton/test/cluster"
)

// The main packages of etcd's programs.
const (
	etcd    = "go.etcd.io/etcd/server/v3"
	etcdctl = "go.etcd.io/etcd/etcdctl/v3"
)

// Baton starts n pods of Baton with empty disks, and returns when each of them
// serves. More flags go to every kvd.
func Baton(t testing.TB, n int, flags ...string) *cluster.Cluster {
	t.Helper()
	return BatonWith(t, "", n, flags...)
}

// BatonWith starts Baton, rolled out over pods that run another kvd; the last pod still
// runs it. If kvd is empty, there is no other.
func BatonWith(t testing.TB, kvd string, n int, flags ...string) *cluster.Cluster {
	t.Helper()
	newer := cluster.Program(t, cluster.Kvd)
	first := newer
	if kvd != "" {
		first = kvd
	}
	c, err := cluster.New(t.TempDir(), first, n, flags...)
	if err != nil {
		t.Fatal(err)
	}
	c.EndWith(t)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for i, p := range c.Pods {
		AwaitServing(t, p)
		if kvd == "" || i == n-1 {
			continue
		}
		if err := c.AwaitWhole(t.Context(), cluster.Patience); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Stop(p); err != nil {
			t.Fatal(err)
		}
		p.Command[0] = newer
		Start(t, p)
	}
	return c
}

// Etcd starts one member of the real etcd with an empty disk, and returns when
// it serves. More flags go to it.
func Etcd(t testing.TB, flags ...string) *cluster.Cluster {
	t.Helper()
	p, err := cluster.NewPod(t.TempDir(), "etcd")
	if err != nil {
		t.Fatal(err)
	}
	client, peer := "http://"+p.Client, "http://"+p.Peer
	p.Command = append([]string{
		cluster.Program(t, etcd), "--name", p.Name, "--data-dir", p.Dir, "--log-level", "error",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", p.Name + "=" + peer,
	}, flags...)
	c := &cluster.Cluster{Pods: []*cluster.Pod{p}}
	c.EndWith(t)
	Start(t, p)
	return c
}

// Start starts a pod, and returns when it serves.
func Start(t testing.TB, p *cluster.Pod) {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	AwaitServing(t, p)
}

// AwaitServing returns when a pod answers a linearizable read.
func AwaitServing(t testing.TB, p *cluster.Pod) {
	t.Helper()
	cluster.Eventually(t, p.Name+" serves", cluster.Patience, func(ctx context.Context) error {
		_, err := pb.NewKVClient(p.Conn()).Range(ctx, &pb.RangeRequest{Key: []byte("any")})
		return err
	})
}

// Program builds etcd, and returns where it is.
func Program(t testing.TB) string { return cluster.Program(t, etcd) }

// Etcdctl builds etcdctl, and returns where it is.
func Etcdctl(t testing.TB) string { return cluster.Program(t, etcdctl) }

// Kvctl builds kvctl, runs it, and returns what it printed.
func Kvctl(t testing.TB, arguments ...string) string {
	t.Helper()
	output, err := exec.Command(cluster.Program(t, cluster.Kvctl), arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("kvctl %v: %v\n%s", arguments, err, output)
	}
	return string(output)
}
