package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// await waits until a state is reached.
func (c *Cluster) await(what string, within time.Duration, reached func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(poll) {
		if reached() {
			return
		}
	}
	c.t.Fatalf("not within %v: %s", within, what)
}

// awaitNoPods waits until every pod is gone.
func (c *Cluster) awaitNoPods() {
	c.t.Helper()
	c.await("all pods are gone", settlePatience, func() bool {
		pods, err := c.api.CoreV1().Pods(c.namespace).List(context.Background(), metav1.ListOptions{})
		return err == nil && len(pods.Items) == 0
	})
}

// awaitPod waits until a pod's container waits for a reason.
func (c *Cluster) awaitPod(pod, what string, is func(reason string) bool) {
	c.t.Helper()
	c.await(pod+" "+what, settlePatience, func() bool {
		p, err := c.api.CoreV1().Pods(c.namespace).Get(context.Background(), pod, metav1.GetOptions{})
		if err != nil {
			return false
		}
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Waiting != nil && is(s.State.Waiting.Reason) {
				return true
			}
		}
		return false
	})
}

// awaitRunning waits until a new pod of a name runs, ready or not.
func (c *Cluster) awaitRunning(pod string) {
	c.t.Helper()
	c.await(pod+" runs", settlePatience, func() bool {
		p, err := c.api.CoreV1().Pods(c.namespace).Get(context.Background(), pod, metav1.GetOptions{})
		return err == nil && p.DeletionTimestamp == nil && len(p.Status.ContainerStatuses) == 1 &&
			p.Status.ContainerStatuses[0].State.Running != nil
	})
}

// awaitLog waits until a pod has logged a text.
func (c *Cluster) awaitLog(pod, text string, within time.Duration) {
	c.t.Helper()
	c.await(pod+" logs: "+text, within, func() bool { return c.logs.said(pod, text) })
}

// awaitAnyLog waits until any pod has logged a text.
func (c *Cluster) awaitAnyLog(text string, within time.Duration) {
	c.t.Helper()
	c.awaitLog("kv-*", text, within)
}

// wipe deletes a pod's claim and the pod, at once or as it would be by itself.
func (c *Cluster) wipe(pod string, how ...string) {
	c.t.Helper()
	c.kubectl("delete", "pvc", "data-"+pod, "--wait=false")
	c.kubectl(append([]string{"delete", "pod", pod}, how...)...)
}

// memberOf is the member id of a pod.
func (c *Cluster) memberOf(pod string) string {
	c.t.Helper()
	for _, id := range strings.Fields(c.members()) {
		if filepath.Dir(id) == pod {
			return id
		}
	}
	return ""
}

// readyz is a pod's page about itself; empty: it did not answer.
func (c *Cluster) readyz(ctx context.Context, pod string) string {
	web := http.Client{Timeout: time.Second, Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, address string) (net.Conn, error) { return dialer()(ctx, address) },
		DisableKeepAlives: true,
	}}
	url := "http://" + pod + "." + strings.Replace(c.service("kv"), ":7400", ":7402", 1) + "/readyz?verbose"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return ""
	}
	answer, err := web.Do(request)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()          //nolint:errcheck // It was only read.
	page, _ := io.ReadAll(answer.Body) // what is missing is not there
	return string(page)
}

// awaitCloning waits until a pod receives a clone, by its readyz page.
func (c *Cluster) awaitCloning(pod string) {
	c.t.Helper()
	for deadline := time.Now().Add(settlePatience); time.Now().Before(deadline); time.Sleep(poll / 5) {
		page := c.readyz(c.t.Context(), pod)
		if strings.Contains(page, "clone: from") {
			return
		}
		if strings.Contains(page, "ready: true") {
			c.t.Logf("the clone of %s was faster than the test", pod)
			return
		}
	}
	c.t.Fatalf("%s does not clone", pod)
}
