package issuer

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/kubernetes"
)

var secretsResource = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}

// cluster is some pods, and the Secret of the manifest.
type cluster struct {
	t   *testing.T
	api *fake.FakeDynamicClient
	now time.Time
	// ahead is how far the pods' clocks are ahead of the API server's; 0: not known.
	ahead time.Duration
	pods  []*Issuer

	mu   sync.Mutex // guards away
	away bool
}

func newCluster(t *testing.T, pods int) *cluster {
	t.Helper()
	c := &cluster{t: t, now: time.Now()}
	c.api = fake.NewSimpleDynamicClient(runtime.NewScheme())
	c.create()
	version := 1
	c.api.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.away, nil, errors.New("connection refused")
	})
	// As the real API: an update of another version than there is, is refused.
	c.api.PrependReactor("update", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		object := a.(clienttesting.UpdateAction).GetObject().(*unstructured.Unstructured)
		if object.GetResourceVersion() != c.secret().GetResourceVersion() {
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "secrets"}, object.GetName(), errors.New("changed"))
		}
		version++
		object.SetResourceVersion(strconv.Itoa(version))
		return false, nil, nil
	})
	for n := range pods {
		name := "kv-" + strconv.Itoa(n)
		pod, err := kubernetes.New(kubernetes.Options{
			Client: c.api, Namespace: "shop", Name: name,
			ClockAhead: func() (time.Duration, bool) { return c.ahead, c.ahead != 0 },
		})
		if err != nil {
			t.Fatal(err)
		}
		c.pods = append(c.pods, &Issuer{
			Pod: pod, Names: pki.PodNames(name, "kv", "shop"), Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
			Now: func() time.Time { return c.now },
		})
	}
	return c
}

// create is kubectl apply of the manifest.
func (c *cluster) create() {
	c.t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret",
		"metadata": map[string]any{"name": "kv-peer-ca", "namespace": "shop", "resourceVersion": "1", "labels": map[string]any{"app": "baton"}},
	}}
	if err := c.api.Tracker().Create(secretsResource, object, "shop"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) secret() *unstructured.Unstructured {
	c.t.Helper()
	object, err := c.api.Tracker().Get(secretsResource, "shop", "kv-peer-ca")
	if err != nil {
		c.t.Fatal(err)
	}
	return object.(*unstructured.Unstructured)
}

// empty is a person who removes the data, or what else is in its place.
func (c *cluster) put(data map[string]any) {
	c.t.Helper()
	object := c.secret().DeepCopy()
	delete(object.Object, "data")
	if data != nil {
		object.Object["data"] = data
	}
	if err := c.api.Tracker().Update(secretsResource, object, "shop"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) renew() {
	c.t.Helper()
	for n, p := range c.pods {
		if err := p.Renew(c.t.Context()); err != nil {
			c.t.Errorf("kv-%d: %v", n, err)
		}
	}
}

func (c *cluster) material(n int) *pki.Material {
	c.t.Helper()
	f := c.pods[n].onDisk()
	m, err := pki.ParseMaterial(f.pair, f.bundle)
	if err != nil {
		c.t.Fatalf("kv-%d: %v", n, err)
	}
	return m
}

// trusting fails unless each pod trusts each other's certificate.
func (c *cluster) trusting() {
	c.t.Helper()
	for n := range c.pods {
		for other := range c.pods {
			c.trust(n, other)
		}
	}
}

func (c *cluster) trust(n, other int) {
	c.t.Helper()
	chain := []*x509.Certificate{c.material(other).Certificate.Leaf}
	if err := c.material(n).Verify(chain, x509.ExtKeyUsageClientAuth, "", c.now); err != nil {
		c.t.Errorf("kv-%d does not trust kv-%d: %v", n, other, err)
	}
}

func (c *cluster) mustRenew(n int) {
	c.t.Helper()
	if err := c.pods[n].Renew(c.t.Context()); err != nil {
		c.t.Fatalf("kv-%d: %v", n, err)
	}
}

// Pods that find the Secret empty at once make one CA between them.
func TestOneCA(t *testing.T) {
	c := newCluster(t, 5)
	var all sync.WaitGroup
	for n, p := range c.pods {
		all.Go(func() {
			if err := p.Renew(t.Context()); err != nil {
				t.Errorf("kv-%d: %v", n, err)
			}
		})
	}
	all.Wait()
	c.trusting()
	if cas := c.material(0).CAs; len(cas) != 1 {
		t.Errorf("%d CAs", len(cas))
	}
	if c.secret().GetLabels()["app"] != "baton" {
		t.Error("what the manifest put into the Secret is gone")
	}
	before := c.secret()
	c.renew()
	if !equality.Semantic.DeepEqual(before, c.secret()) {
		t.Error("the Secret was written again")
	}
}

func TestRenewal(t *testing.T) {
	c := newCluster(t, 2)
	c.renew()
	first := c.material(0).Certificate.Leaf
	c.now = c.now.Add(23 * time.Hour)
	c.renew()
	if !c.material(0).Certificate.Leaf.Equal(first) {
		t.Error("renewed before it was a day old")
	}
	c.now = c.now.Add(2 * time.Hour)
	c.renew()
	if second := c.material(0).Certificate.Leaf; second.Equal(first) || second.NotAfter.Sub(c.now) != life.Truncate(time.Second) && second.NotAfter.Sub(c.now) < life-time.Second {
		t.Errorf("after a day it ends %v", second.NotAfter)
	}
	// Without the API what there is goes on; a pod begins with it, and nothing else.
	c.mu.Lock()
	c.away = true
	c.mu.Unlock()
	c.now = c.now.Add(10 * day)
	if err := c.pods[0].Obtain(t.Context(), func(string) {}); err != nil {
		t.Error(err)
	}
	c.now = c.now.Add(5 * day)
	if c.pods[0].usable() {
		t.Error("a certificate that has ended is usable")
	}
}

// A person empties the Secret, or deletes it and applies the manifest again: the next
// CA comes, and at no moment does a pod not trust another.
func TestNextCA(t *testing.T) {
	for name, remove := range map[string]func(c *cluster){
		"emptied": func(c *cluster) { c.put(nil) },
		"deleted": func(c *cluster) {
			if err := c.api.Tracker().Delete(secretsResource, "shop", "kv-peer-ca"); err != nil {
				t.Fatal(err)
			}
			if err := c.pods[0].Renew(t.Context()); !errors.Is(err, kubernetes.ErrNoSecret) || !strings.Contains(err.Error(), "apply the manifest") {
				t.Errorf("a Secret that is deleted: %v", err)
			}
			c.trusting()
			c.create()
		},
	} {
		c := newCluster(t, 3)
		c.renew()
		old := c.material(0).CAs[0]
		remove(c)
		for n := range c.pods {
			if err := c.pods[n].Renew(t.Context()); err != nil {
				t.Error(err)
			}
			c.trusting()
		}
		if m := c.material(2); len(m.CAs) != 2 || m.Certificate.Leaf.CheckSignatureFrom(old) != nil {
			t.Errorf("%s: a certificate of the new CA at once", name)
		}
		c.now = c.now.Add(settle + time.Second)
		for n := range c.pods {
			if err := c.pods[n].Renew(t.Context()); err != nil {
				t.Error(err)
			}
			c.trusting()
		}
		if c.material(1).Certificate.Leaf.CheckSignatureFrom(old) == nil {
			t.Errorf("%s: the certificate is still of the old CA", name)
		}
		c.now = c.now.Add(life + day)
		c.renew()
		c.trusting()
		if m := c.material(0); len(m.CAs) != 1 || m.CAs[0].Equal(old) {
			t.Errorf("%s: the old CA is still trusted", name)
		}
	}
}

// The Secret and a volume are lost at once, and the pod without a volume comes first:
// the CA that it makes does not set those apart that have the old one.
func TestNextCAByANewcomer(t *testing.T) {
	c := newCluster(t, 3)
	c.renew()
	c.put(nil)
	c.pods[1].Dir = t.TempDir()
	c.mustRenew(1)
	for _, n := range []int{0, 2} {
		c.mustRenew(n)
		c.trust(0, 2)
		c.trust(2, 0)
	}
	c.renew()
	c.trusting()
	c.now = c.now.Add(settle)
	for n := range c.pods {
		c.mustRenew(n)
		c.trusting()
	}
}

// A CA is replaced before it ends.
func TestCAThatEnds(t *testing.T) {
	c := newCluster(t, 3)
	c.renew()
	first := c.material(0).CAs[0]
	c.now = first.NotAfter.Add(-caLast - 2*day)
	c.renew()
	for range 40 {
		c.now = c.now.Add(12 * time.Hour)
		for _, p := range c.pods {
			if err := p.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.trusting()
		}
	}
	if cas := c.material(0).CAs; len(cas) != 1 || cas[0].Equal(first) {
		t.Errorf("%d CAs, until %v", len(cas), cas[0].NotAfter)
	}
}

func TestGarbageInTheSecret(t *testing.T) {
	c := newCluster(t, 1)
	c.renew()
	before := c.pods[0].onDisk()
	for _, data := range []map[string]any{
		{"ca.crt": "AAAA", "ca.key": "AAAA"}, {"ca.crt": "AAAA"}, {"ca.key": "AAAA"}, {"ca.crt": "!", "ca.key": "!"},
	} {
		c.put(data)
		if err := c.pods[0].Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "kv-peer-ca") {
			t.Errorf("%v: %v", data, err)
		}
		if !c.pods[0].onDisk().equal(before) {
			t.Errorf("%v: what is on the volume changed", data)
		}
	}
	// A pod that has been moved to another namespace needs other names.
	c.put(nil)
	c.pods[0].Names = pki.PodNames("kv-0", "kv", "bank")
	c.renew()
	if m := c.material(0); m.Certificate.Leaf.DNSNames[0] != "kv-0.kv.bank.svc" || len(m.CAs) != 1 {
		t.Errorf("%v, %d CAs", m.Certificate.Leaf.DNSNames, len(m.CAs))
	}
}

// A machine whose clock is years ahead makes a CA that nobody else can use yet. The
// others keep what they have, on their volumes as well: they can still begin anew.
func TestACAOfTheFuture(t *testing.T) {
	c := newCluster(t, 2)
	c.renew()
	wrong, right := c.pods[0], c.pods[1]
	wrong.Now = func() time.Time { return c.now.Add(caLife) }
	if err := wrong.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(2 * day) // It would be time for another certificate.
	if err := right.Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "clocks") {
		t.Errorf("it renews: %v", err)
	}
	if !right.usable() {
		t.Error("it could not begin anew")
	}
}

// A machine whose clock is not the API server's changes no CA, and says which way its clock
// is wrong. What is renewed without that is renewed all the same.
func TestACAByAWrongClock(t *testing.T) {
	c := newCluster(t, 1)
	for ahead, says := range map[time.Duration]string{
		maxClockAhead + time.Minute: "6m0s ahead of", -time.Hour: "1h0m0s behind", caLife: "ahead of",
	} {
		c.ahead = ahead
		if err := c.pods[0].Renew(t.Context()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s ahead: %v", ahead, err)
		}
		if _, written := c.secret().Object["data"]; written {
			t.Fatalf("%s ahead: a CA is written", ahead)
		}
	}
	for _, ahead := range []time.Duration{maxClockAhead - time.Second, -maxClockAhead + time.Second, 0} {
		c.ahead = ahead
		c.put(nil)
		c.renew()
	}
	before := c.secret().GetResourceVersion()
	c.ahead = 2 * day
	c.now = c.now.Add(2 * day)
	old := c.material(0).Certificate.Leaf
	c.renew()
	if c.material(0).Certificate.Leaf.Equal(old) || c.secret().GetResourceVersion() != before {
		t.Error("the certificate is not renewed by the CA that there is")
	}
	c.now = c.now.Add(caLife) // It would be time for another CA.
	if err := c.pods[0].Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "put the clock right") {
		t.Errorf("the CA is replaced by a wrong clock: %v", err)
	}
}
