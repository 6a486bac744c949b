package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/etcd/servers"
)

// certificates are directories with tls.crt, tls.key and ca.crt of one CA.
type certificates struct {
	t    *testing.T
	dir  string
	ca   *pki.CA
	life time.Duration
}

func newCertificates(t *testing.T) certificates {
	t.Helper()
	ca, err := pki.NewCA("test", time.Now().Add(-time.Hour), 2*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return certificates{t: t, dir: t.TempDir(), ca: ca, life: 2 * time.Hour}
}

func (c certificates) issue(name string, r pki.Request) string {
	c.t.Helper()
	r.Now, r.Life = time.Now().Add(-time.Hour), c.life
	pair, err := c.ca.Issue(r)
	if err != nil {
		c.t.Fatal(err)
	}
	dir := filepath.Join(c.dir, name)
	if err := pki.WriteFiles(dir, pair, pki.EncodeCertificates(c.ca.Certificate)); err != nil {
		c.t.Fatal(err)
	}
	return dir
}

// TestEtcdctlOverTLS runs etcdctl with certificates on the real etcd and on Baton:
// what succeeds on one succeeds on the other.
func TestEtcdctlOverTLS(t *testing.T) {
	ours, others := newCertificates(t), newCertificates(t)
	expired := ours
	expired.life = time.Minute
	alice := pki.Request{CommonName: "alice", Client: true}
	pods := ours.issue("pods", pki.Request{Names: []string{"127.0.0.1", "localhost"}, Server: true, Client: true})
	roots := x509.NewCertPool()
	roots.AddCert(ours.ca.Certificate)

	flags := func(dir string, files ...string) (all []string) {
		for _, f := range files {
			name, file, _ := strings.Cut(f, "=")
			all = append(all, name, filepath.Join(dir, file))
		}
		return all
	}
	etcdPods := func() *cluster.Cluster {
		p, err := cluster.NewPod(t.TempDir(), "etcd")
		if err != nil {
			t.Fatal(err)
		}
		client, peer := "https://"+p.Client, "http://"+p.Peer
		p.Command = append([]string{
			servers.Program(t), "--name", p.Name, "--data-dir", p.Dir, "--log-level", "error",
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", p.Name + "=" + peer,
		}, flags(pods, "--cert-file=tls.crt", "--key-file=tls.key", "--trusted-ca-file=ca.crt")...)
		return &cluster.Cluster{Pods: []*cluster.Pod{p}}
	}()
	batonPods, err := cluster.New(t.TempDir(), cluster.Program(t, cluster.Kvd), 1, "--client-certs", pods)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*cluster.Cluster{etcdPods, batonPods} {
		c.EndWith(t)
		c.Pods[0].TLS = &tls.Config{RootCAs: roots}
		if c == etcdPods {
			// It asks for a certificate as soon as it has a CA.
			c.Pods[0].TLS = mutual(t, roots, ours.issue("launcher", alice))
		}
		servers.Start(t, c.Pods[0])
	}

	mine := flags(ours.issue("alice", alice), "--cacert=ca.crt", "--cert=tls.crt", "--key=tls.key")
	for _, test := range []struct {
		name string
		tls  []string
		ok   bool
	}{
		{"a certificate of the CA", mine, true},
		{"no TLS", nil, false},
		{"another CA", flags(others.issue("alice", alice), "--cacert=ca.crt", "--cert=tls.crt", "--key=tls.key"), false},
		{"a certificate of another CA", append(mine[:2:2], flags(others.issue("bob", alice), "--cert=tls.crt", "--key=tls.key")...), false},
		{"an expired certificate", append(mine[:2:2], flags(expired.issue("old", alice), "--cert=tls.crt", "--key=tls.key")...), false},
	} {
		for _, c := range []*cluster.Cluster{etcdPods, batonPods} {
			ctl := etcdctl(t, c)
			if test.tls != nil {
				ctl.endpoints = []string{"https://" + c.Pods[0].Client}
			}
			line := strings.Join(append(test.tls, "--dial-timeout", "2s", "--command-timeout", "2s", "put", "k", "v"), " ")
			if printed, ok := ctl.run(line, ""); ok != test.ok {
				t.Errorf("%s at %s: %t, %s", test.name, c.Pods[0].Name, ok, printed)
			}
		}
	}
	// Baton's certificates for clients are optional.
	ctl := etcdctl(t, batonPods)
	ctl.endpoints = []string{"https://" + batonPods.Pods[0].Client}
	ctl.must(strings.Join(append(mine[:2:2], "get", "k"), " "))
	if text := servers.Kvctl(t, append([]string{"--endpoints", batonPods.Pods[0].Client, "get", "k"}, mine...)...); text != "v" {
		t.Errorf("kvctl get printed %q", text)
	}
}

func mutual(t *testing.T, roots *x509.CertPool, dir string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
}
