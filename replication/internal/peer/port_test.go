package peer

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"github.com/google/uuid"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/volume"
)

// A pod that has come is found though its name does not resolve yet, until it
// is not there any more.
func TestDialWhereAPodCameFrom(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, number, _ := net.SplitHostPort(listener.Addr().String())
	open := func(pod string, l net.Listener) *Port {
		o := &replication.Options{
			Name: pod, Listener: l, Logger: slog.New(slog.DiscardHandler),
			Resolver: func(pod string) (string, error) {
				return net.JoinHostPort(pod+".kv", number), &net.DNSError{Err: "no such host", IsNotFound: true}
			},
			Dial: func(ctx context.Context, hostport string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", hostport)
			},
		}
		id := volume.Identity{MemberID: pod + "/" + uuid.NewString(), ClusterID: "c"}
		return NewPort(o, func() volume.Identity { return id }, func(string, handshake.Reason) {})
	}
	called, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, other := open("kv-0", called), open("kv-1", listener)
	t.Cleanup(func() { p.Close(); p.Wait(); other.Close(); other.Wait() })
	answers := other.Listen(handshake.Calls)
	go func() {
		for conn, err := answers.Accept(); err == nil; conn, err = answers.Accept() {
			conn.Close()
		}
	}()
	dial := func() error {
		conn, err := p.Dial(t.Context(), handshake.Calls, "kv-1", "")
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := dial(); err == nil {
		t.Error("found without a name")
	}
	p.recentAddresses.ips["kv-1"] = "127.0.0.1"
	if err := dial(); err != nil {
		t.Error(err)
	}
	other.Close()
	if err := dial(); err == nil || p.recentAddresses.instead("kv-1", "kv-1.kv:1") != "" {
		t.Errorf("a pod that is gone: %v, at %q", err, p.recentAddresses.instead("kv-1", "kv-1.kv:1"))
	}
}

func TestRecentAddresses(t *testing.T) {
	o := &recentAddresses{ips: map[string]string{}}
	o.note("kv-0", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 40000})
	o.note("kv-1", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000})
	o.note("kv-2", &net.UnixAddr{Name: "s"})
	for _, tc := range []struct{ pod, addr, want string }{
		{"kv-0", "kv-0.kv:7401", "10.0.0.1:7401"},
		{"kv-0", "10.0.0.9:7401", ""},
		{"kv-1", "kv-1.kv:7401", ""},
		{"kv-2", "kv-2.kv:7401", ""},
		{"kv-3", "kv-3.kv:7401", ""},
	} {
		if got := o.instead(tc.pod, tc.addr); got != tc.want {
			t.Errorf("%s at %s: %q, want %q", tc.pod, tc.addr, got, tc.want)
		}
	}
	o.forget("kv-0", "10.0.0.2:7401")
	if o.instead("kv-0", "kv-0.kv:7401") == "" {
		t.Error("a newer address was forgotten with an older one")
	}
	o.forget("kv-0", "10.0.0.1:7401")
	if got := o.instead("kv-0", "kv-0.kv:7401"); got != "" {
		t.Errorf("%q is not forgotten", got)
	}
}
