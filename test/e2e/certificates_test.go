//go:build e2e

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/batondb/baton/internal/pki"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/history"
)

const (
	// closing is how long it takes at most until what is no longer trusted is closed.
	closing = 4 * time.Second
	// noticed is how long pods take to see another Secret kv-peer-ca: they look once a
	// minute, and at the files five seconds later.
	noticed = 2 * time.Minute
	// known is how long pods know a CA of their own before they show a certificate of it.
	known = 10 * time.Minute
)

// rotation is what a change of certificates may cost.
var rotation = Target{WriteGap: 300 * time.Millisecond, Masters: -1}

// Leaf and CA are swapped under load, by what docs/security.md says to type for the
// overlay peer-certs: first both CAs are trusted, then the certificates are the new
// CA's, then the old one counts no more.
func TestS27CertificatesRotate(t *testing.T) {
	c := prepare(t, 3)
	p := openPage(t, "databases", c.namespace, c.namespace)
	typed := p.commands("In Kubernetes the overlay `peer-certs`")[0]
	p.run("kvctl pki init --ca ca", "kvctl pki init --ca next")
	p.run(typed...)
	c.begin()
	stop := c.strict()
	for i, step := range []struct{ what, with string }{
		{"another certificate of the same CA", "--ca ca"},
		{"both CAs are trusted", "--ca ca --trust next/ca.crt"},
		{"certificates of the new CA", "--ca next --trust ca/ca.crt"},
		{"the old CA is trusted no more", "--ca next"},
	} {
		c.observe("S27 "+step.what, rotation, func() {
			p.run(strings.ReplaceAll(typed[0], "--ca ca", step.with), typed[1],
				// A kubelet looks after a pod once a minute, and when the pod changes.
				fmt.Sprintf("kubectl annotate pods --all --overwrite e2e/step=%d", i))
			c.awaitEach("uses its new certificate", settlePatience, func(pod string) bool {
				return strings.Contains(c.readyz(t.Context(), pod), "peer certificate: ends "+p.certificate("certs/"+pod).NotAfter.UTC().Format(time.RFC3339))
			})
			time.Sleep(closing)
		})
	}
	stop()
	c.onlyTrust(p.ca("next"), p.ca("ca"))
	mayOnly(t, c.as(first), c.namespace, always...)
}

// certificate is the one in a folder.
func (p *page) certificate(dir string) *x509.Certificate {
	p.t.Helper()
	all, err := pki.ParseCertificates(p.file(filepath.Join(dir, pki.FileCertificate)))
	if err != nil {
		p.t.Fatal(err)
	}
	return all[0]
}

// ca is the one in a folder.
func (p *page) ca(dir string) *pki.CA {
	p.t.Helper()
	ca, err := pki.ParseCA(pki.Pair{Certificate: p.file(filepath.Join(dir, pki.FileCA)), Key: p.file(filepath.Join(dir, pki.FileCAKey))})
	if err != nil {
		p.t.Fatal(err)
	}
	return ca
}

// A person replaces the CA in the Secret kv-peer-ca by one of their own, which is old
// enough for the pods to take it up at once.
func TestS27AnotherCAInTheSecret(t *testing.T) {
	c := install(t, "", 3)
	older, newer := c.peerCA(), newCA(t, "newer", time.Now().Add(-known-time.Minute))
	stop := c.strict()
	c.observe("S27 kv-peer-ca: both CAs are trusted", rotation, func() {
		c.setPeerCA(older, older, newer)
		c.awaitEach("trusts both", noticed, func(pod string) bool { return strings.Contains(c.readyz(t.Context(), pod), "CAs trusted: 2,") })
	})
	c.observe("S27 kv-peer-ca: the new CA issues", rotation, func() {
		c.setPeerCA(newer, newer, older)
		c.awaitIssuer(newer, noticed)
	})
	c.dropCA(newer, older, func() { c.setPeerCA(newer, newer) })
	stop()
	c.onlyTrust(newer, older)
}

// As docs/security.md has it: a person empties the Secret, the pods make the next CA,
// trust both for some time, and then the old one is taken out. With -quick it ends
// when both are trusted.
func TestS27CAOfThePods(t *testing.T) {
	c := install(t, "", 3)
	older := c.peerCA()
	stop := c.strict()
	p := openPage(t, "databases", c.namespace, c.namespace)
	typed := p.commands("*The pods' own.*")
	c.observe("S27 kv-peer-ca is emptied: both CAs are trusted", rotation, func() {
		p.run(typed[0][0])
		c.awaitEach("trusts both", noticed, func(pod string) bool { return strings.Contains(c.readyz(t.Context(), pod), "CAs trusted: 2,") })
	})
	if *quick {
		stop()
		return
	}
	newer := c.peerCA()
	c.observe("S27 kv-peer-ca was emptied: the new CA issues", rotation, func() { c.awaitIssuer(newer, known+noticed) })
	c.dropCA(newer, older, func() { p.run(typed[1]...) })
	stop()
	c.onlyTrust(newer, older)
}

// dropCA takes the old CA out of the Secret, and waits until no pod trusts it.
func (c *Cluster) dropCA(newer, older *pki.CA, drop func()) {
	c.t.Helper()
	c.observe("S27 kv-peer-ca: the old CA is trusted no more", rotation, func() {
		drop()
		c.awaitEach("refuses the old CA", noticed, func(pod string) bool {
			_, err := c.knock(pod, older, newer)
			return isRefusal(err)
		})
		time.Sleep(closing)
	})
}

func newCA(t *testing.T, name string, since time.Time) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(name, since, 10*365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// peerCA is the CA that the pods have made.
func (c *Cluster) peerCA() *pki.CA {
	c.t.Helper()
	secret, err := c.api.CoreV1().Secrets(c.namespace).Get(c.t.Context(), "kv-peer-ca", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	ca, err := pki.ParseCA(pki.Pair{Certificate: secret.Data[pki.FileCA], Key: secret.Data[pki.FileCAKey]})
	if err != nil {
		c.t.Fatal(err)
	}
	return ca
}

func (c *Cluster) setPeerCA(issues *pki.CA, trusted ...*pki.CA) {
	c.t.Helper()
	pair, err := issues.Pair()
	if err != nil {
		c.t.Fatal(err)
	}
	var bundle []byte
	for _, ca := range trusted {
		bundle = append(bundle, pki.EncodeCertificates(ca.Certificate)...)
	}
	encode := base64.StdEncoding.EncodeToString
	c.kubectl("patch", "secret", "kv-peer-ca", "-p", fmt.Sprintf(`{"data":{%q:%q,%q:%q}}`, pki.FileCA, encode(bundle), pki.FileCAKey, encode(pair.Key)))
}

// awaitEach waits until something holds of each pod.
func (c *Cluster) awaitEach(what string, within time.Duration, holds func(pod string) bool) {
	c.t.Helper()
	for i := range c.replicas {
		pod := fmt.Sprintf("kv-%d", i)
		c.await(pod+" "+what, within, func() bool { return holds(pod) })
	}
}

// awaitIssuer waits until all pods show a certificate of a CA.
func (c *Cluster) awaitIssuer(ca *pki.CA, within time.Duration) {
	c.t.Helper()
	c.awaitEach("shows a certificate of the new CA", within, func(pod string) bool {
		shown, err := c.knock(pod, ca, ca)
		return err == nil && shown.CheckSignatureFrom(ca.Certificate) == nil
	})
}

// knock is a connection to a pod's peer port as kv-0, with a certificate of a CA.
func (c *Cluster) knock(pod string, from, trusted *pki.CA) (*x509.Certificate, error) {
	pair, err := from.Issue(pki.Request{Names: pki.PodNames("kv-0", "kv", c.namespace), Now: time.Now(), Life: time.Hour, Client: true})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	conn, err := dialer()(ctx, pod+"."+strings.Replace(c.service("kv"), ":7400", ":7401", 1))
	if err != nil {
		return nil, err
	}
	return cluster.Knock(conn, pair, trusted)
}

// isRefusal says that a pod has refused a certificate, and not that it was not reached.
func isRefusal(err error) bool {
	return err != nil && strings.Contains(err.Error(), "remote error: tls:")
}

// onlyTrust checks that not even kv-0 itself is let in by what the old CA has issued.
func (c *Cluster) onlyTrust(newer, older *pki.CA) {
	c.t.Helper()
	for i := range c.replicas {
		pod := fmt.Sprintf("kv-%d", i)
		if _, err := c.knock(pod, older, newer); !isRefusal(err) {
			c.t.Errorf("%s lets the old CA in: %v", pod, err)
		}
		if _, err := c.knock(pod, newer, newer); err != nil {
			c.t.Errorf("%s does not let the new CA in: %v", pod, err)
		}
	}
}

// strict writers repeat nothing: a write that is lost on its way is a failed call of
// the load.
func (c *Cluster) strict() (stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	var writes atomic.Int64
	for i := range c.replicas {
		conn, err := c.conn(c.pod(i))
		if err != nil {
			c.t.Fatal(err)
		}
		c.load.tasks.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key, value := fmt.Sprintf("strict/%d", i), fmt.Sprintf("strict-%d-%d", i, n)
				op := &history.Op{Client: writers + readers + i, Name: "put", Writes: []history.Write{{Key: key, Value: value}}}
				c.load.record(op, func(ctx context.Context) (history.Answer, error) {
					r, err := kvv1.NewKVServiceClient(conn).Put(ctx, &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)})
					return history.NewAnswer(r.GetHeader()), err
				})
				writes.Add(1)
				sleep(ctx, pace)
			}
		})
	}
	return func() {
		cancel()
		c.t.Logf("%d writes without repetition", writes.Load())
	}
}
