package main

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
)

// inOrder starts pods as a StatefulSet with OrderedReady does: each is created, and
// has a name, once those before it are ready. The names of those that exist are in
// exist.
func (s *statefulSet) inOrder(exist *sync.Map, names ...string) {
	s.t.Helper()
	for i, name := range names {
		s.awaitReady(names[:i]...)
		exist.Store(name, true)
		c := s.config(name)
		c.addresses = map[string]string{}
		for other, address := range s.addresses {
			_, port, _ := net.SplitHostPort(address)
			c.addresses[other] = net.JoinHostPort(other+".kv", port)
		}
		c.world.lookup = func(_ context.Context, host string) ([]string, error) {
			if pod, _, _ := strings.Cut(host, "."); !has(exist, pod) {
				return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
			}
			return []string{"127.0.0.1"}, nil
		}
		c.world.dial = func(ctx context.Context, hostport string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(hostport)
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
		}
		s.startWith(c)
	}
}

func has(exist *sync.Map, pod string) bool {
	_, ok := exist.Load(pod)
	return ok
}

// With OrderedReady the database of the first pod does not open: the others, which
// are only created once it is ready, have what it needs.
func TestDamagedDatabaseInOrder(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	s.restarted(all...)
	s.mustPut("kv-0", "k")
	s.stopAll(all...)
	raw, err := os.ReadFile(s.database("kv-0"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 << 10 {
		raw[i] ^= 0xff
	}
	if err := os.WriteFile(s.database("kv-0"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	exist := &sync.Map{}
	s.inOrder(exist, all...)
	s.awaitRetired("kv-0")
	s.inOrder(exist, "kv-0")
	s.awaitReady(all...)
	s.mustHave("kv-0", "k", "v")
}

// With OrderedReady two pods differ, and the third, which can tell who is wrong, is
// only created once both are ready. They answer no read that may be wrong.
func TestDifferentDataInOrder(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	before := s.restarted(all...)
	s.mustPut("kv-0", "a")
	s.stopAll("kv-0")
	s.mustPut("kv-1", "b") // So kv-0 is not the master of the first two.
	s.stopAll("kv-1", "kv-2")
	s.phantom("kv-0", before["kv-0"], s.last("kv-0"))
	exist := &sync.Map{}
	s.inOrder(exist, "kv-0", "kv-1")
	s.eventually("the first is in doubt, and ready", func() error {
		if _, err := s.has("kv-0", "b"); err == nil {
			t.Fatal("it has answered a read")
		} else if !strings.Contains(err.Error(), "differs") {
			return err
		}
		return errors.Join(s.ready("kv-0"), s.ready("kv-1"))
	})
	s.inOrder(exist, "kv-2")
	s.awaitRetired("kv-0")
	s.inOrder(exist, "kv-0")
	s.awaitReady(all...)
	if found, err := s.has("kv-0", "phantom"); found || err != nil {
		t.Errorf("the phantom: %v, %v", found, err)
	}
}
