package process

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	pods = 3
	// patience is for a cluster to form or to recover on a busy machine.
	patience = 60 * time.Second
)

// pod is one kvd process of a cluster on loopback.
type pod struct {
	t       *testing.T
	args    []string
	client  string
	conn    *grpc.ClientConn
	command *exec.Cmd
}

func (p *pod) start() {
	p.t.Helper()
	p.command = exec.Command(p.args[0], p.args[1:]...)
	p.command.Stderr = os.Stderr
	if err := p.command.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// end returns the process's error.
func (p *pod) end(signal syscall.Signal) error {
	p.t.Helper()
	if err := p.command.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	return p.command.Wait()
}

func (p *pod) kv() kvv1.KVServiceClient { return kvv1.NewKVServiceClient(p.conn) }

// build makes a binary under test.
func build(t *testing.T, name string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	output, err := exec.Command("go", "build", "-o", binary, "github.com/batondb/baton/cmd/"+name).CombinedOutput()
	if err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, output)
	}
	return binary
}

// freeAddresses are ports that nobody listens on now.
func freeAddresses(t *testing.T, n int) []string {
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

func startCluster(t *testing.T) []*pod {
	t.Helper()
	binary, dir := build(t, "kvd"), t.TempDir()
	addresses := freeAddresses(t, 3*pods)
	var peers []string
	for i := range pods {
		peers = append(peers, fmt.Sprintf("kv-%d=%s", i, addresses[3*i+1]))
	}
	var all []*pod
	for i := range pods {
		p := &pod{t: t, client: addresses[3*i], args: []string{
			binary, "serve",
			"--name", fmt.Sprintf("kv-%d", i),
			"--data-dir", filepath.Join(dir, fmt.Sprintf("kv-%d", i)),
			"--listen-client", addresses[3*i], "--listen-peer", addresses[3*i+1], "--listen-http", addresses[3*i+2],
			"--peers", strings.Join(peers, ","),
		}}
		conn, err := grpc.NewClient(p.client, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
		if err != nil {
			t.Fatal(err)
		}
		p.conn = conn
		p.start()
		t.Cleanup(func() {
			conn.Close()
			p.command.Process.Kill()
			p.command.Wait()
		})
		all = append(all, p)
	}
	return all
}

// eventually repeats what may fail while the cluster forms or recovers.
func eventually(t *testing.T, what string, try func(ctx context.Context) error) {
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

func put(t *testing.T, p *pod, key, value string) {
	t.Helper()
	eventually(t, "put through "+p.client, func(ctx context.Context) error {
		_, err := p.kv().Put(ctx, &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)})
		return err
	})
}

func wantAll(t *testing.T, p *pod, want map[string]string) {
	t.Helper()
	eventually(t, "read through "+p.client, func(ctx context.Context) error {
		response, err := p.kv().Range(ctx, &kvv1.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if err != nil {
			return err
		}
		got := map[string]string{}
		for _, kv := range response.GetKvs() {
			got[string(kv.GetKey())] = string(kv.GetValue())
		}
		// Linearizable: the first answer must be right.
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%s has %v, want %v", p.client, got, want)
		}
		return nil
	})
}

func allReady(t *testing.T, p *pod) (master int) {
	t.Helper()
	eventually(t, "all pods ready", func(ctx context.Context) error {
		response, err := kvv1.NewClusterServiceClient(p.conn).Status(ctx, &kvv1.StatusRequest{})
		if err != nil {
			return err
		}
		ready := 0
		for _, s := range response.GetPods() {
			if s.GetReady() {
				ready++
			}
			if s.GetRole() == kvv1.PodStatus_ROLE_MASTER {
				master = int(s.GetOrdinal())
			}
		}
		if ready != pods || len(response.GetPods()) != pods {
			return fmt.Errorf("%v", response)
		}
		return nil
	})
	return master
}

// TestKillTheMaster: writes and reads on every pod, the master killed, on with
// the other two, and the killed one back with everything.
func TestKillTheMaster(t *testing.T) {
	all := startCluster(t)
	want := map[string]string{}
	write := func(p *pod, key string) {
		put(t, p, key, "of "+key)
		want[key] = "of " + key
	}
	for i, p := range all {
		write(p, fmt.Sprintf("first-%d", i))
		wantAll(t, p, want)
	}
	master := allReady(t, all[0])

	all[master].end(syscall.SIGKILL)
	for i, p := range all {
		if i != master {
			write(p, fmt.Sprintf("without-%d", i))
			wantAll(t, p, want)
		}
	}

	all[master].start()
	allReady(t, all[master])
	wantAll(t, all[master], want)
	write(all[master], "again")
	for _, p := range all {
		wantAll(t, p, want)
	}
}

// TestStop: SIGTERM ends every pod with status 0, and the data is there after.
func TestStop(t *testing.T) {
	all := startCluster(t)
	put(t, all[1], "key", "value")
	allReady(t, all[0])
	for _, p := range all {
		if err := p.end(syscall.SIGTERM); err != nil {
			t.Errorf("%s ended with %v", p.client, err)
		}
	}
	for _, p := range all {
		p.start()
	}
	wantAll(t, all[2], map[string]string{"key": "value"})
}
