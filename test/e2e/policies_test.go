//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// who is a pod that tries to connect to Baton's pods, with labels of the pod and,
// where it is elsewhere, of its own namespace; else it is in Baton's.
type who struct {
	name              string
	elsewhere         bool
	ofPod, ofItsSpace string
	// clients, peers, http: which ports it is to reach.
	clients, peers, http bool
}

const asBaton = "app.kubernetes.io/name: baton, app.kubernetes.io/instance: kv"

var callers = []who{
	{name: "client", ofPod: "baton.kv/client: kv", clients: true},
	{name: "client-of-another-baton", ofPod: "baton.kv/client: other"},
	{name: "nobody"},
	{name: "monitoring", ofPod: "baton.kv/monitoring: kv", http: true},
	{name: "both", ofPod: "baton.kv/client: kv, baton.kv/monitoring: kv", clients: true, http: true},
	{name: "from-a-labelled-namespace", elsewhere: true, ofItsSpace: "baton.kv/client: kv", clients: true},
	{name: "prometheus", elsewhere: true, ofItsSpace: "baton.kv/monitoring: kv", http: true},
	// A label of a pod counts in Baton's namespace only.
	{name: "from-another-namespace", elsewhere: true, ofPod: "baton.kv/client: kv, baton.kv/monitoring: kv"},
	{name: "named-as-baton", elsewhere: true, ofPod: asBaton},
}

// The network policy of the overlay secure, enforced: clients reach the client port,
// monitoring the HTTP port, and nobody but the pods themselves the peer port. Under it
// pods come up, take over and clone as without it.
func TestNetworkPolicy(t *testing.T) {
	lab := needLab(t)
	if *policies == "" {
		t.Skip("needs a network that enforces policies: run it with -policies")
	}
	lab.enforce()
	c := prepare(t, 3)
	c.apply("")
	c.kubectl("apply", "-f", manifest(t, "overlays/secure/network.yaml"))
	c.begin()
	c.measure("network policy: a pod comes back, and another one loses its volume", Target{WriteGap: 300 * time.Millisecond, Masters: -1}, func() {
		followers := c.followers()
		c.kubectl("delete", "pod", followers[0])
		c.awaitRunning(followers[0])
		c.settle()
		c.wipe(followers[1])
	})
	c.callers(lab)
}

// callers lets each of them try each port of each pod.
func (c *Cluster) callers(lab *lab) {
	c.t.Helper()
	var text strings.Builder
	for _, w := range callers {
		space := c.namespace
		if w.elsewhere {
			space += "-" + w.name
			fmt.Fprintf(&text, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {%s}}\n", space, w.ofItsSpace)
			c.t.Cleanup(func() { _, _ = kubectl("", "", "delete", "namespace", space, "--wait=false") })
		}
		// Its image is what holds the namespaces of each pod: it does nothing.
		fmt.Fprintf(&text, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: {%s}}\n"+
			"spec: {terminationGracePeriodSeconds: 0, containers: [{name: idle, image: %q, imagePullPolicy: Never}]}\n", w.name, space, w.ofPod, idleImage)
	}
	// A namespace takes no pods before it has a service account.
	c.await("the pods that try are there", 30*time.Second, func() bool {
		_, err := kubectl("", text.String(), "apply", "-f", "-")
		return err == nil
	})
	t := &tries{t: c.t, addresses: map[int][]string{}}
	for _, port := range []int{7400, 7401, 7402} {
		t.addresses[port] = []string{c.kube("kv-0").Status.PodIP, c.kube("kv-1").Status.PodIP}
	}
	t.addresses[7400] = append(t.addresses[7400], c.kubectl("get", "service", "kv-client", "-o", "jsonpath={.spec.clusterIP}"))
	for _, w := range callers {
		space := c.namespace
		if w.elsewhere {
			space += "-" + w.name
		}
		t.each(w, lab.processOf(c.running(space, w.name), "pause"))
	}
	t.each(who{name: "kv-2", clients: true, peers: true}, lab.process(c.kube("kv-2")))
	t.all.Wait()
}

// running waits until a pod runs.
func (c *Cluster) running(namespace, name string) *corev1.Pod {
	c.t.Helper()
	var pod *corev1.Pod
	c.await(name+" runs", settlePatience, func() bool {
		var err error
		pod, err = c.api.CoreV1().Pods(namespace).Get(c.t.Context(), name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning
	})
	return pod
}

// tries are connections to the addresses of each port.
type tries struct {
	t         *testing.T
	addresses map[int][]string
	all       sync.WaitGroup
}

// each tries all ports from within a process's network.
func (t *tries) each(w who, process int) {
	for port, let := range map[int]bool{7400: w.clients, 7401: w.peers, 7402: w.http} {
		for _, address := range t.addresses[port] {
			t.all.Go(func() {
				address := fmt.Sprintf("%s:%d", address, port)
				got := reaches(t.t.Context(), process, address)
				// An engine hears of a pod some time after it runs.
				for deadline := time.Now().Add(15 * time.Second); let && !got && time.Now().Before(deadline); {
					got = reaches(t.t.Context(), process, address)
				}
				if got != let {
					t.t.Errorf("%s reaches %s: %t, should be %t", w.name, address, got, let)
				}
			})
		}
	}
}
