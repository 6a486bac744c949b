package simulate

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/batondb/baton/test/workload"
)

var (
	namespaces   = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	configMaps   = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	statefulSets = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}
	podObjects   = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	claims       = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
)

// controller does what Kubernetes' StatefulSet controller and the kubelets do:
// it starts pods in order, stops the highest ordinal first, and rolls out from
// the highest down, always one at a time and only while all are ready; with
// parallel it starts and stops all at once.
type controller struct {
	world    *world
	parallel bool
	fail     func(format string, args ...any)
	probes   *http.Client

	replicas atomic.Int64

	// Under the world's lock.
	roll    int // The number of the roll-out.
	paused  bool
	failing map[string]string // Why each pod is not ready; "" is ready.
}

const (
	controllerTick = time.Second
	probeTimeout   = time.Second
)

func newController(w *world, replicas int, parallel bool, fail func(string, ...any)) *controller {
	dial := w.network.Host("kubelet", "10.255.0.1").dialer(func(_ context.Context, ip string) ([]string, error) { return []string{ip}, nil })
	c := &controller{world: w, parallel: parallel, fail: fail, failing: map[string]string{}}
	c.probes = &http.Client{Timeout: probeTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
	}}
	c.replicas.Store(int64(replicas))
	w.api.put(namespaces, object("v1", "Namespace", Namespace))
	w.api.put(configMaps, object("v1", "ConfigMap", Service+"-cluster")) // Empty, as the manifest makes it.
	c.publish()
	return c
}

func object(version, kind, name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": version, "kind": kind,
		"metadata": map[string]any{"name": name, "namespace": Namespace},
	}}
}

// publish writes the StatefulSet as a person would.
func (c *controller) publish() {
	set := object("apps/v1", "StatefulSet", Service)
	set.SetUID("the-set")
	set.Object["spec"] = map[string]any{
		"replicas":             c.replicas.Load(),
		"volumeClaimTemplates": []any{map[string]any{"metadata": map[string]any{"name": "data"}}},
	}
	c.world.api.put(statefulSets, set)
}

// size is how many pods should exist.
func (c *controller) size() int { return int(c.replicas.Load()) }

// scale sets spec.replicas. The world is locked.
func (c *controller) scale(replicas int) {
	c.replicas.Store(int64(replicas))
	c.publish()
}

var ticks atomic.Int64

// Ticks counts as long as virtual time moves. It may be called from outside of
// the bubble.
func Ticks() int64 { return ticks.Load() }

func (c *controller) run(ctx context.Context) {
	defer c.probes.CloseIdleConnections()
	for workload.Pause(ctx, controllerTick) == nil {
		ticks.Add(1)
		c.probe(ctx)
		if next := c.next(); next != nil {
			next()
		}
	}
}

// probe asks every pod that runs whether it is ready.
func (c *controller) probe(ctx context.Context) {
	for _, m := range c.world.pods {
		why := c.readiness(ctx, m)
		c.world.lock()
		c.failing[m.name] = why
		c.world.unlock()
	}
}

// readiness is empty when the pod is ready, and says why not otherwise.
func (c *controller) readiness(ctx context.Context, m *machine) string {
	c.world.lock()
	ip, running := m.ip, m.process.Load().running()
	c.world.unlock()
	if !running {
		return "it does not run"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ip+":7402/readyz", nil)
	if err != nil {
		return err.Error()
	}
	response, err := c.probes.Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close() //nolint:errcheck // It was only read.
	body, _ := io.ReadAll(response.Body)
	if response.StatusCode == http.StatusOK {
		return ""
	}
	if why := strings.TrimSpace(string(body)); why != "" {
		return why
	}
	return response.Status
}

func (c *controller) ready(m *machine) bool {
	return m.process.Load().running() && c.failing[m.name] == ""
}

// next decides on one step.
func (c *controller) next() func() {
	w := c.world
	w.lock()
	defer w.unlock()
	if c.paused {
		return nil
	}
	for _, m := range w.pods[:c.size()] {
		if !m.process.Load().running() && !m.wanted {
			c.create(m)
			if !c.parallel {
				return nil
			}
			continue
		}
		if !c.ready(m) && !c.parallel {
			return nil
		}
	}
	for i := len(w.pods) - 1; i >= c.size(); i-- {
		if m := w.pods[i]; m.process.Load().running() {
			return func() { c.stop(m) }
		}
	}
	for i := c.size() - 1; i >= 0; i-- {
		m := w.pods[i]
		if !c.ready(m) {
			return nil
		}
		if m.rolled < c.roll {
			return func() { c.stop(m) }
		}
	}
	return nil
}

// create makes the pod. The world is locked.
func (c *controller) create(m *machine) {
	m.rolled = c.roll
	if m.process.Load() != nil {
		m.move()
	}
	pod := object("v1", "Pod", m.name)
	pod.Object["status"] = map[string]any{"phase": "Running"} // As it is for others, soon.
	c.world.api.put(podObjects, pod)
	claim := object("v1", "PersistentVolumeClaim", claimOf(m))
	claim.Object["status"] = map[string]any{"phase": "Bound"}
	c.world.api.keep(claims, claim)
	m.run()
}

func claimOf(m *machine) string { return "data-" + m.name }

// stop ends a pod as Kubernetes deletes one.
func (c *controller) stop(m *machine) {
	if err := m.stop(); err != nil {
		c.fail("%v", err)
	}
	c.gone(m)
}

// gone removes what Kubernetes knows of a pod that was deleted.
func (c *controller) gone(m *machine) {
	if p := m.process.Load(); p != nil && !p.running() {
		p.host.Remove()
	}
	c.world.api.remove(podObjects, m.name)
	c.world.names.point(m.name, "")
}

// allReady says why the pods are not as they should be; "" is all is well.
func (c *controller) allReady() string {
	c.world.lock()
	defer c.world.unlock()
	for i, m := range c.world.pods {
		switch {
		case i < c.size() && !c.ready(m):
			return fmt.Sprintf("%s is not ready: %s", m.name, c.failing[m.name])
		case i >= c.size() && m.process.Load().running():
			return m.name + " should not exist"
		}
	}
	return ""
}
