package cluster

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// patience is for a cluster to form or to recover on a busy machine.
const patience = 60 * time.Second

// Cluster is some pods of one system.
type Cluster struct {
	Pods []*Pod
	t    testing.TB
}

// Baton starts n pods of Baton with empty disks, and returns when each of them
// serves. More arguments go to every kvd.
func Baton(t testing.TB, n int, arguments ...string) *Cluster {
	t.Helper()
	binary, dir, addresses := build(t, kvd), t.TempDir(), freeAddresses(t, 3*n)
	var peers []string
	for i := range n {
		peers = append(peers, fmt.Sprintf("kv-%d=%s", i, addresses[3*i+1]))
	}
	c := &Cluster{t: t}
	for i := range n {
		name := fmt.Sprintf("kv-%d", i)
		c.Pods = append(c.Pods, newPod(t, dir, name, addresses[3*i], append([]string{
			binary, "serve", "--name", name, "--data-dir", filepath.Join(dir, name),
			"--listen-client", addresses[3*i], "--listen-peer", addresses[3*i+1], "--listen-http", addresses[3*i+2],
			"--peers", strings.Join(peers, ","),
		}, arguments...)...))
	}
	c.start()
	return c
}

// Etcd starts one member of the real etcd with an empty disk, and returns when
// it serves. More arguments go to it.
func Etcd(t testing.TB, arguments ...string) *Cluster {
	t.Helper()
	binary, dir, addresses := build(t, etcd), t.TempDir(), freeAddresses(t, 2)
	client, peer := "http://"+addresses[0], "http://"+addresses[1]
	c := &Cluster{t: t, Pods: []*Pod{newPod(t, dir, "etcd", addresses[0], append([]string{
		binary, "--name", "etcd", "--data-dir", filepath.Join(dir, "etcd"), "--log-level", "error",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "etcd=" + peer,
	}, arguments...)...)}}
	c.start()
	return c
}

func (c *Cluster) start() {
	c.t.Helper()
	for _, p := range c.Pods {
		p.Start()
	}
	for _, p := range c.Pods {
		p.AwaitServing()
	}
}

// Endpoints are the pods' client addresses.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, p := range c.Pods {
		all = append(all, p.Client)
	}
	return all
}

// Master is the pod of Baton that leads.
func (c *Cluster) Master() *Pod {
	c.t.Helper()
	var master *Pod
	eventually(c.t, "one of the pods leads", func(ctx context.Context) error {
		for _, p := range c.Pods {
			status, err := kvv1.NewClusterServiceClient(p.Dial()).Status(ctx, &kvv1.StatusRequest{ThisPodOnly: true})
			if err == nil && len(status.GetPods()) == 1 && status.GetPods()[0].GetRole() == kvv1.PodStatus_ROLE_MASTER {
				master = p
				return nil
			}
		}
		return fmt.Errorf("no pod is the master")
	})
	return master
}

// Dial returns a connection to the pod, which ends with the test.
func (p *Pod) Dial() *grpc.ClientConn {
	p.t.Helper()
	const unlimited = 1 << 30
	conn, err := grpc.NewClient(p.Client, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(unlimited)))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return conn
}

// AwaitServing returns when the pod answers a linearizable read.
func (p *Pod) AwaitServing() {
	p.t.Helper()
	kv := pb.NewKVClient(p.Dial())
	eventually(p.t, p.Name+" serves", func(ctx context.Context) error {
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("any")})
		return err
	})
}

// eventually repeats what may fail while a cluster forms or recovers.
func eventually(t testing.TB, what string, try func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		attempt, stop := context.WithTimeout(ctx, 5*time.Second)
		err := try(attempt)
		stop()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freeAddresses are ports that nobody listens on now.
func freeAddresses(t testing.TB, n int) []string {
	t.Helper()
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses
}
