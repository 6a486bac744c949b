package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/client/clienttest"
	"github.com/batondb/baton/internal/pki"
)

const day = 24 * time.Hour

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test", time.Now(), 365*day)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// issue writes a certificate, and returns its directory.
func issue(t *testing.T, dir string, ca *pki.CA, r pki.Request, trust ...*pki.CA) string {
	t.Helper()
	if r.Now.IsZero() {
		r.Now, r.Life = time.Now(), day
	}
	pair, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	var bundle []byte
	for _, c := range append(trust, ca) {
		bundle = append(bundle, pki.EncodeCertificates(c.Certificate)...)
	}
	if err := pki.WriteFiles(dir, pair, bundle); err != nil {
		t.Fatal(err)
	}
	return dir
}

func filesIn(dir string) client.TLSFiles {
	return client.TLSFiles{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
}

// secured is a pod with TLS that asks for a client certificate.
func secured(t *testing.T, dir string) *clienttest.Cluster {
	t.Helper()
	files, err := pki.Open(dir, pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	config := files.Server(true)
	config.NextProtos = []string{"h2"}
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, files.Reload() }
	fake, err := clienttest.Start(1, grpc.Creds(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	return fake
}

func server(names ...string) pki.Request { return pki.Request{Names: names, Server: true} }

func TestTLSFromFiles(t *testing.T) {
	old, ca := newCA(t), newCA(t)
	serverDir, clientDir := t.TempDir(), t.TempDir()
	issue(t, serverDir, old, server("127.0.0.1"), ca)
	issue(t, clientDir, old, pki.Request{CommonName: "alice", Client: true}, ca)
	fake := secured(t, serverDir)
	c, err := client.New(client.Options{Endpoints: fake.Endpoints(), Files: filesIn(clientDir)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	put := func(what string) {
		t.Helper()
		if _, err := c.Put(within(t, 5*time.Second), "k", []byte("v")); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	put("with the first certificates")
	// All that is new is taken up by the next connection; the old CA counts no more.
	issue(t, serverDir, ca, server("127.0.0.1"))
	issue(t, clientDir, ca, pki.Request{CommonName: "alice", Client: true})
	fake.StopPod(0)
	if err := fake.StartPod(0); err != nil {
		t.Fatal(err)
	}
	put("with new certificates")
}

// What a person gets to read when two sides cannot talk.
func TestTLSThatDoesNotFit(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	dir := func(ca *pki.CA, r pki.Request, trust ...*pki.CA) string {
		return issue(t, t.TempDir(), ca, r, trust...)
	}
	alice := filesIn(dir(ca, pki.Request{CommonName: "alice", Client: true}))
	here := dir(ca, server("127.0.0.1"))
	plain, err := clienttest.Start(1)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	noCert, named := alice, alice
	noCert.Cert, noCert.Key = "", ""
	named.ServerName = "kv-client"
	past := pki.Request{Names: []string{"127.0.0.1"}, Server: true, Client: true, Now: time.Now().Add(-2 * day), Life: day}
	for name, test := range map[string]struct {
		server  *clienttest.Cluster
		files   client.TLSFiles
		problem string
	}{
		"a plain server":              {plain, alice, client.ServerIsPlain},
		"a plain client":              {secured(t, here), client.TLSFiles{}, client.ServerWantsTLS},
		"a server of another name":    {secured(t, dir(ca, server("kv-client.shop.svc"))), alice, client.OtherName},
		"another name was expected":   {secured(t, here), named, client.OtherName},
		"a server of another CA":      {secured(t, dir(other, server("127.0.0.1"), ca)), alice, client.UnknownCA},
		"an expired server":           {secured(t, dir(ca, past)), alice, client.ServerExpired},
		"a client of another CA":      {secured(t, here), filesIn(dir(other, pki.Request{Client: true}, ca)), client.ClientRefused},
		"an expired client":           {secured(t, here), filesIn(dir(ca, past)), client.ClientRefused},
		"a client with a server's":    {secured(t, here), filesIn(dir(ca, server("127.0.0.1"))), client.ClientRefused},
		"a client that shows nothing": {secured(t, here), noCert, client.ClientRefused},
	} {
		c, err := client.New(client.Options{Endpoints: test.server.Endpoints(), Files: test.files})
		if err != nil {
			t.Fatal(err)
		}
		// Not each attempt: what a server says before it ends a connection may be lost.
		eventually(t, name+": "+test.problem, func() bool {
			_, err := c.Put(within(t, 100*time.Millisecond), "k", []byte("v"))
			var e *client.Error
			return errors.As(err, &e) && e.Metadata["tls"] == test.problem && errors.Is(err, client.ErrUnavailable)
		})
		c.Close()
	}
}

func TestTokenFile(t *testing.T) {
	var seen atomic.Pointer[[]string]
	note := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		values := metadata.ValueFromIncomingContext(ctx, "authorization")
		seen.Store(&values)
		return handle(ctx, req)
	}
	fake, err := clienttest.Start(1, grpc.ChainUnaryInterceptor(note))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("a.b.c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Options{Endpoints: fake.Endpoints(), TokenFile: file})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Put(within(t, 5*time.Second), "k", nil); err != nil {
		t.Fatal(err)
	}
	if got := *seen.Load(); len(got) != 1 || got[0] != "Bearer a.b.c" {
		t.Errorf("the token came as %q", got)
	}
	_, err = client.New(client.Options{Endpoints: []string{"kv-client.shop.svc:7400"}, TokenFile: file})
	if !errors.Is(err, client.ErrInvalid) || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("a token for another machine without TLS: %v", err)
	}
	_, err = client.New(client.Options{Endpoints: fake.Endpoints(), TokenFile: file + "x"})
	if !errors.Is(err, client.ErrInvalid) {
		t.Errorf("a token that is not there: %v", err)
	}
	secured, err := client.New(client.Options{Endpoints: []string{"kv-client.shop.svc:7400"}, TokenFile: file, TLS: &tls.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	secured.Close()
}
