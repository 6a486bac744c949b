//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/batondb/baton/internal/pki"
)

// A newcomer, by docs/security.md, "All of it": from the overlay secure to a put
// from a pod of another namespace, with TLS and a ServiceAccount's token. Without TLS
// nobody is answered.
func TestSecureOverlay(t *testing.T) {
	c := prepare(t, 3)
	shop := c.namespace + "-shop"
	if _, err := kubectl("", "", "create", "namespace", shop); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = kubectl("", "", "delete", "namespace", shop, "--wait=false") })
	ca := c.clientCerts()
	c.apply("secure")
	for deadline := time.Now().Add(settlePatience); ; time.Sleep(poll) {
		why := c.unrolled(t.Context())
		if why == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(why)
		}
	}
	for _, args := range [][]string{
		{"label", "namespace", shop, "baton.kv/client=kv"},
		{"create", "configmap", "kv-client-ca", "--from-literal=ca.crt=" + ca},
	} {
		if _, err := kubectl(shop, "", args...); err != nil {
			t.Fatal(err)
		}
	}
	client := strings.NewReplacer("kv-client.databases.svc", "kv-client."+c.namespace+".svc", "image: "+defaultImage, "image: "+*image).
		Replace(readFile(t, "client.yaml"))
	if logs, ended := runClient(t, shop, client); ended != "Succeeded" {
		t.Fatalf("it has %s: %s", ended, logs)
	}
	// As a person looks at it, by the environment that the overlay gives.
	if got := c.kubectl("exec", "kv-1", "--", "kvctl", "get", "greeting"); !strings.Contains(got, "hello") {
		t.Errorf("kvctl in the pod says %q", got)
	}
	if out, err := kubectl(c.namespace, "", "exec", "kv-0", "--", "kvctl", "--endpoints", "127.0.0.1:7400", "--cacert", "", "--timeout", "3s", "get", "greeting"); err == nil {
		t.Errorf("without TLS it says %q", out)
	}
	c.accessControl(shop, client)
}

// runClient runs the client to its end.
func runClient(t *testing.T, namespace, client string) (logs, ended string) {
	t.Helper()
	if _, err := kubectl(namespace, client, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(settlePatience); ended != "Succeeded" && ended != "Failed" && time.Now().Before(deadline); time.Sleep(poll) {
		ended, _ = kubectl(namespace, "", "get", "pod", "kv-example", "-o", "jsonpath={.status.phase}")
	}
	logs, _ = kubectl(namespace, "", "logs", "kv-example")
	if _, err := kubectl(namespace, "", "delete", "pod", "kv-example", "--force", "--grace-period=0"); err != nil {
		t.Fatal(err)
	}
	return logs, ended
}

// accessControl turns it on: the client's ServiceAccount may write what its role
// says, and nobody without a name anything.
func (c *Cluster) accessControl(shop, client string) {
	c.t.Helper()
	account := "system:serviceaccount:" + shop + ":default"
	if _, err := kubectl(c.namespace, "a password for root\n", "exec", "-i", "kv-0", "--", "kvctl", "auth", "user", "add", "root"); err != nil {
		c.t.Fatal(err)
	}
	for _, args := range [][]string{
		{"user", "grant", "root", "root"},
		{"role", "add", "shop"},
		{"user", "add", "--no-password", account},
		{"user", "grant", account, "shop"},
		{"enable"},
	} {
		c.kubectl(append([]string{"exec", "kv-0", "--", "kvctl", "auth"}, args...)...)
	}
	if logs, ended := runClient(c.t, shop, client); ended != "Failed" || !strings.Contains(strings.ToLower(logs), "permi") {
		c.t.Errorf("without a right it has %s: %s", ended, logs)
	}
	if out, err := kubectl(c.namespace, "", "exec", "kv-0", "--", "kvctl", "get", "greeting"); err == nil {
		c.t.Errorf("nobody reads %q", out)
	}
	c.kubectl("exec", "kv-0", "--", "kvctl", "--user", "root", "--password", "a password for root", "auth", "role", "grant", "shop", "readwrite", "greeting")
	if logs, ended := runClient(c.t, shop, client); ended != "Succeeded" {
		c.t.Errorf("with the right it has %s: %s", ended, logs)
	}
}

// clientCerts makes the Secret of the overlay secure, as kvctl pki does, and returns
// the CA.
func (c *Cluster) clientCerts() (ca string) {
	c.t.Helper()
	authority, err := pki.NewCA("e2e", time.Now(), time.Hour)
	if err != nil {
		c.t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Request{
		CommonName: "kv", Now: time.Now(), Life: time.Hour, Server: true,
		Names: []string{"kv-client." + c.namespace + ".svc", fmt.Sprintf("*.kv.%s.svc.%s", c.namespace, *domain), "localhost"},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	bundle := pki.EncodeCertificates(authority.Certificate)
	encode := base64.StdEncoding.EncodeToString
	secret := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: kv-client-certs}\ndata: {tls.crt: %s, tls.key: %s, ca.crt: %s}\n",
		encode(pair.Certificate), encode(pair.Key), encode(bundle))
	if _, err := kubectl(c.namespace, secret, "apply", "-f", "-"); err != nil {
		c.t.Fatal(err)
	}
	return string(bundle)
}
