package server

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/internal/access"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server/audit"
)

// newLoggedIn is a pod with access control on, whose tokens end soon, and a client of it.
func newLoggedIn(t *testing.T, trail *audit.Trail) (*fakePod, *client.Client) {
	t.Helper()
	const address = "127.0.0.1:7400"
	p := newPod(t, "kv-0", func(o *Options) { o.ClientAddress, o.Security.Audit = address, trail }).use()
	p.core.bounds.passwords.ttl = 6 * time.Second // The client does not log in more often than every five.
	hash, err := p.core.bounds.passwords.hash(t.Context(), "roots")
	if err != nil {
		t.Fatal(err)
	}
	p.store.apply(&kvv1.Command{Command: &kvv1.Command_Auth{Auth: &kvv1.AuthChange{
		Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: access.Root, PasswordHash: hash}},
	}}})
	p.store.enable()
	reigning, abdicate := context.WithCancel(t.Context())
	reigned := make(chan struct{})
	go func() { defer close(reigned); p.RunMaster(reigning) }()
	t.Cleanup(func() { abdicate(); <-reigned })
	c, err := client.New(client.Options{Endpoints: []string{address}, User: access.Root, Password: "roots", DialOptions: []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return p.port.DialContext(ctx) }),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return p, c
}

// The Go client's watches, batches and leases go on when its token ends, each event once,
// and no write fails.
func TestTheClientOutlastsItsToken(t *testing.T) {
	t.Parallel()
	trailed := &syncBuffer{}
	rule, err := audit.ParseRule("all")
	if err != nil {
		t.Fatal(err)
	}
	trail, err := audit.Open(audit.Options{Rule: rule, Out: trailed, Pod: "kv-0"})
	if err != nil {
		t.Fatal(err)
	}
	p, c := newLoggedIn(t, trail)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	// The first write of a client that knows no revision is not repeated safely.
	if _, err := c.Range(ctx, client.Prefix("k")); err != nil {
		t.Fatal(err)
	}
	lease, err := c.Grant(ctx, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := c.KeepAlive(ctx, lease)
	if err != nil {
		t.Fatal(err)
	}
	const last = "the last"
	seen, watched := []string{}, make(chan error, 1)
	started := make(chan struct{})
	go func() {
		begun := false
		for response, err := range c.Watch(ctx, client.Key("k")) {
			if err != nil {
				watched <- err
				return
			}
			if !begun {
				begun = true
				close(started)
			}
			for _, event := range response.GetEvents() {
				if seen = append(seen, string(event.GetKv().GetValue())); seen[len(seen)-1] == last {
					watched <- nil
					return
				}
			}
		}
	}()
	<-started
	batch, err := c.NewBatcher(client.BatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer batch.Close()
	var written []string
	for begun := time.Now(); time.Since(begun) < 7*time.Second; time.Sleep(20 * time.Millisecond) {
		value := fmt.Sprint(len(written))
		if len(written)%2 == 0 {
			_, err = batch.Put(ctx, "k", []byte(value))
		} else {
			_, err = c.Put(ctx, "k", []byte(value))
		}
		if err != nil {
			t.Fatalf("after %s: %v", time.Since(begun), err)
		}
		written = append(written, value)
	}
	if _, err := c.Put(ctx, "k", []byte(last)); err != nil {
		t.Fatal(err)
	}
	if err := <-watched; err != nil {
		t.Errorf("the watch ended: %v", err)
	}
	if want := append(written, last); strings.Join(seen, " ") != strings.Join(want, " ") {
		t.Errorf("the watch brought %d of %d values, or others", len(seen), len(want))
	}
	if kept.Err() != nil {
		t.Errorf("the lease ended: %v", context.Cause(kept))
	}
	p.Stop(within5s(t))
	trail.Close()
	for _, stream := range []string{"WatchService/Watch", "LeaseService/KeepAlive"} {
		ended := false
		for line := range strings.Lines(trailed.String()) {
			ended = ended || strings.Contains(line, stream) && strings.Contains(line, `"Unauthenticated"`)
		}
		if !ended {
			t.Errorf("%s did not end with its token", stream)
		}
	}
}
