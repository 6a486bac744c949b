//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A newcomer, by what docs/security.md says to type under "All of it": from nothing
// to a put from a pod of another namespace in five commands, with TLS, a
// ServiceAccount's token and, where the test has an engine for them, network policies;
// then access control. Nobody waits for the pods in between.
func TestSecureOverlay(t *testing.T) {
	c := plan(t, 3)
	shop := c.namespace + "-shop"
	if *policies != "" {
		needLab(t).enforce()
	}
	t.Cleanup(func() { _, _ = kubectl("", "", "delete", "namespace", shop, "--wait=false") })
	p := openPage(t, c.namespace, shop, c.namespace)
	typed := p.commands("## All of it")
	if len(typed[1]) != 5 {
		t.Fatalf("it takes %d commands: %q", len(typed[1]), typed[1])
	}
	p.run(typed[0]...)
	from := time.Now()
	p.run(typed[1]...)
	t.Logf("from nothing to a put in %v", time.Since(from).Round(time.Second))
	c.await("all pods are ready", settlePatience, func() bool { return c.unrolled(t.Context()) == "" })
	// As a person looks at it, by the environment that the overlay gives.
	if got := c.kubectl("exec", "kv-1", "--", "kvctl", "get", "greeting"); !strings.Contains(got, "hello") {
		t.Errorf("kvctl in the pod says %q", got)
	}
	if out, err := kubectl(c.namespace, "", "exec", "kv-0", "--", "kvctl", "--endpoints", "127.0.0.1:7400", "--cacert", "", "--timeout", "3s", "get", "greeting"); err == nil {
		t.Errorf("without TLS it says %q", out)
	}
	c.accessControl(p, typed[2], shop)
}

// runClient runs the client once more, to its end.
func (p *page) runClient(shop string) (logs, ended string) {
	p.t.Helper()
	p.run("kubectl -n "+shop+" delete pod kv-example --force --grace-period=0", "kubectl -n "+shop+" apply -f deploy/client.yaml")
	for deadline := time.Now().Add(settlePatience); ended != "Succeeded" && ended != "Failed" && time.Now().Before(deadline); time.Sleep(poll) {
		ended, _ = kubectl(shop, "", "get", "pod", "kv-example", "-o", "jsonpath={.status.phase}")
	}
	logs, _ = kubectl(shop, "", "logs", "kv-example")
	return logs, ended
}

// accessControl turns it on as the page has it: the client's ServiceAccount may write
// what its role says, and nobody without a name anything.
func (c *Cluster) accessControl(p *page, typed []string, shop string) {
	c.t.Helper()
	const password = "a password for root"
	if err := os.WriteFile(filepath.Join(p.dir, "password"), []byte(password+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	p.run(typed...)
	if logs, ended := p.runClient(shop); ended != "Succeeded" {
		c.t.Errorf("with the right it has %s: %s", ended, logs)
	}
	if out, err := kubectl(c.namespace, "", "exec", "kv-0", "--", "kvctl", "get", "greeting"); err == nil {
		c.t.Errorf("nobody reads %q", out)
	}
	c.kubectl("exec", "kv-0", "--", "kvctl", "--user", "root", "--password", password, "auth", "role", "revoke", shop, "greeting")
	if logs, ended := p.runClient(shop); ended != "Failed" || !strings.Contains(strings.ToLower(logs), "permi") {
		c.t.Errorf("without a right it has %s: %s", ended, logs)
	}
}
