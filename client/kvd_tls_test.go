package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/internal/pki"
	kvd "github.com/batondb/baton/test/cluster"
)

// handshake says whether a pod accepts a certificate, and returns the pod's.
func handshake(ctx context.Context, address string, config *tls.Config) (*x509.Certificate, error) {
	dialer := tls.Dialer{Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	// A refusal comes after the caller's half of the handshake; whoever is accepted
	// gets the server's first frame.
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return nil, err
	}
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// The certificates of pods and clients, and their CA, are replaced under load: no
// write fails, and the old CA proves nothing afterwards.
func TestTLSRotationUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	t.Parallel()
	old, young := newCA(t), newCA(t)
	podDir, clientDir, oldDir, youngDir := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	alice := pki.Request{CommonName: "alice", Client: true}
	issue(t, podDir, old, server("127.0.0.1"))
	issue(t, clientDir, old, alice, young)
	issue(t, oldDir, old, alice, young)
	issue(t, youngDir, young, alice, old)
	showing := func(dir string) *tls.Config {
		files, err := pki.Open(dir, pki.Options{})
		if err != nil {
			t.Fatal(err)
		}
		config := files.Client()
		config.NextProtos = []string{"h2"}
		return config
	}
	oldClient, youngClient := showing(oldDir), showing(youngDir)
	pods, err := kvd.New(t.TempDir(), kvd.Program(t, kvd.Kvd), 3, "--client-certs", podDir)
	if err != nil {
		t.Fatal(err)
	}
	pods.EndWith(t)
	for _, p := range pods.Pods {
		p.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		p.TLS.RootCAs.AddCert(old.Certificate)
		p.TLS.RootCAs.AddCert(young.Certificate)
	}
	if err := pods.Start(); err != nil {
		t.Fatal(err)
	}
	awaitWhole(t, pods)
	each := func(what string, check func(*x509.Certificate, error) bool, config *tls.Config) {
		t.Helper()
		for _, p := range pods.Pods {
			kvd.Eventually(t, p.Name+": "+what, kvd.Patience, func(ctx context.Context) error {
				leaf, err := handshake(ctx, p.Client, config)
				if !check(leaf, err) {
					return fmt.Errorf("%v", err)
				}
				return nil
			})
		}
	}
	accepted := func(_ *x509.Certificate, err error) bool { return err == nil }
	refused := func(_ *x509.Certificate, err error) bool {
		return err != nil && strings.Contains(err.Error(), "remote error: tls: bad certificate")
	}

	c, err := client.New(client.Options{Endpoints: pods.Endpoints()[:1], Files: filesIn(clientDir)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	load := startLoad(t, c)
	each("the old CA's client is accepted", accepted, oldClient)
	each("the new CA's client is not yet accepted", refused, youngClient)

	// First everybody trusts both, then everybody has a new certificate, then the old
	// CA goes.
	issue(t, podDir, old, server("127.0.0.1"), young)
	each("the new CA's client is accepted", accepted, youngClient)
	issue(t, podDir, young, server("127.0.0.1"), old)
	issue(t, clientDir, young, alice, old)
	each("the pod shows a certificate of the new CA", func(leaf *x509.Certificate, err error) bool {
		return err == nil && leaf.CheckSignatureFrom(young.Certificate) == nil
	}, youngClient)
	issue(t, podDir, young, server("127.0.0.1"))
	each("the old CA's client is refused", refused, oldClient)
	each("the new CA's client is accepted", accepted, youngClient)
	load.stop(t)
}
