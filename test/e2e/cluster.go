package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Cluster is one installation of Baton.
type Cluster struct {
	t         *testing.T
	api       kubernetes.Interface
	namespace string
	// replicas is what was asked for last.
	replicas int
	// id is the cluster's uuid, once it was seen.
	id    string
	dir   string // of logs and the history
	admin *client.Client
	load  *load
	logs  *logs

	mu    sync.Mutex // guards conns
	conns map[string]*grpc.ClientConn
}

// install applies the manifest (overlay "") or an overlay in a new namespace,
// waits until all pods are ready, and starts the load. When the test ends, all
// that was seen is checked.
func install(t *testing.T, overlay string, replicas int) *Cluster {
	t.Helper()
	c := prepare(t, replicas)
	c.apply(overlay)
	c.begin()
	return c
}

// begin waits until a cluster that was applied is whole, and starts the load.
func (c *Cluster) begin() {
	c.t.Helper()
	c.settle()
	for _, p := range c.status().GetPods() {
		// A pod that did not answer just now has none.
		if *version != "" && p.GetVersion() != "" && p.GetVersion() != *version {
			c.t.Fatalf("%s has the version %s, not %s: load the image into the nodes", p.GetName(), p.GetVersion(), *version)
		}
	}
	if err := c.startLoad(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(c.verify)
}

// prepare makes the namespace, and no more.
func prepare(t *testing.T, replicas int) *Cluster {
	t.Helper()
	c := plan(t, replicas)
	if _, err := kubectl("", "", "create", "namespace", c.namespace); err != nil {
		t.Fatal(err)
	}
	return c
}

// plan has a name for the namespace, which the test makes.
func plan(t *testing.T, replicas int) *Cluster {
	t.Helper()
	api, err := newAPI()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))
	name, _, _ = strings.Cut(name, "/")
	c := &Cluster{t: t, api: api, replicas: replicas, conns: map[string]*grpc.ClientConn{}}
	c.namespace = fmt.Sprintf("e2e-%.20s-%04x", name, rand.IntN(1<<16))
	if c.admin, err = newClient(c.service("kv-client")); err != nil {
		t.Fatal(err)
	}
	if c.dir, err = os.MkdirTemp(*keep, c.namespace+"-"); err != nil {
		t.Fatal(err)
	}
	c.logs = followLogs(api, c.namespace, c.dir)
	t.Cleanup(c.remove)
	return c
}

// remove takes the namespace away, and what is known of a test that passed.
func (c *Cluster) remove() {
	if c.t.Failed() {
		c.describe()
	}
	// The pods at once, so that they do not disturb the next test; the rest ends in
	// the background.
	for _, args := range [][]string{
		{"delete", "statefulset", "--all", "--cascade=orphan"},
		{"delete", "pods", "--all", "--force", "--grace-period=0"},
		{"delete", "namespace", c.namespace, "--wait=false"},
	} {
		if _, err := kubectl(c.namespace, "", args...); err != nil {
			c.t.Errorf("remove the namespace: %v", err)
		}
	}
	c.logs.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	_ = c.admin.Close()
	if c.t.Failed() {
		c.t.Logf("logs, state and history are in %s", c.dir)
	} else if *keep == "" {
		_ = os.RemoveAll(c.dir)
	}
}

// describe writes down how things are.
func (c *Cluster) describe() {
	for file, args := range map[string][]string{
		"pods.yaml": {"get", "pods,pvc,statefulset,configmap,endpointslice", "-o", "yaml"},
		"pods.txt":  {"get", "pods,pvc,statefulset,endpointslice", "-o", "wide"},
		"events":    {"get", "events", "--sort-by=.lastTimestamp"},
	} {
		text, err := kubectl(c.namespace, "", args...)
		if err != nil {
			text += err.Error()
		}
		if err := os.WriteFile(filepath.Join(c.dir, file), []byte(text), 0o600); err != nil {
			c.t.Log(err)
		}
	}
	if why := c.unsettled(); why != "" {
		c.t.Logf("at the end: %s", why)
	}
}

// kubectl runs what a person would type.
func (c *Cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := kubectl(c.namespace, "", args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// apply applies the manifest, or an overlay, as it is in deploy/; it changes only the
// name of the image.
func (c *Cluster) apply(overlay string) {
	c.t.Helper()
	c.applyText(readManifest(c.t, overlay))
}

func (c *Cluster) applyText(text string) {
	c.t.Helper()
	text = strings.ReplaceAll(text, "image: "+defaultImage, "image: "+*image)
	if _, err := kubectl(c.namespace, text, "apply", "-f", "-"); err != nil {
		c.t.Fatal(err)
	}
}

func readManifest(t *testing.T, overlay string) string {
	t.Helper()
	if overlay == "" {
		return readFile(t, "statefulset.yaml")
	}
	text, err := kubectl("", "", "kustomize", manifest(t, "overlays/"+overlay))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(manifest(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// scale scales, and does not wait.
func (c *Cluster) scale(replicas int) {
	c.t.Helper()
	c.replicas = replicas
	c.kubectl("scale", "statefulset/kv", fmt.Sprintf("--replicas=%d", replicas))
}

func (c *Cluster) service(name string) string {
	return fmt.Sprintf("%s.%s.svc.%s:7400", name, c.namespace, *domain)
}

// pod is the address of a pod's name.
func (c *Cluster) pod(ordinal int) string {
	return fmt.Sprintf("kv-%d.%s", ordinal, c.service("kv"))
}

// settle waits until the cluster is whole: every pod that was asked for is ready,
// of the newest revision, and a voter, and nobody else is a member.
func (c *Cluster) settle() {
	c.t.Helper()
	if why := c.missing(settlePatience); why != "" {
		c.t.Fatalf("the cluster is not whole after %v: %s", settlePatience, why)
	}
}

// missing waits until the cluster is whole, and says what is missing if it is
// not in time.
func (c *Cluster) missing(within time.Duration) (why string) {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(poll) {
		if why = c.unsettled(); why == "" {
			return ""
		}
	}
	return why
}

// unsettled says why the cluster is not whole; empty: it is.
func (c *Cluster) unsettled() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if why := c.unrolled(ctx); why != "" {
		return why
	}
	asking, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status, err := c.admin.Status(asking)
	if err != nil {
		return "status: " + err.Error()
	}
	return c.incomplete(status)
}

// unrolled is Kubernetes' view. It looks at the pods themselves: what the
// StatefulSet says of them comes later.
func (c *Cluster) unrolled(ctx context.Context) string {
	set, err := c.api.AppsV1().StatefulSets(c.namespace).Get(ctx, "kv", metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	pods, err := c.api.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=kv"})
	if err != nil {
		return err.Error()
	}
	ready := 0
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && p.Labels[appsv1.ControllerRevisionHashLabelKey] == set.Status.UpdateRevision && isReady(&p) {
			ready++
		}
	}
	if set.Status.ObservedGeneration < set.Generation || len(pods.Items) != c.replicas || ready != c.replicas {
		return fmt.Sprintf("of %d pods %d exist, %d are ready and up to date", c.replicas, len(pods.Items), ready)
	}
	return ""
}

func isReady(p *corev1.Pod) bool {
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// incomplete is Baton's own view.
func (c *Cluster) incomplete(status *kvv1.StatusResponse) string {
	if status.GetClusterId() == "" {
		return "the pod that was asked knows of no cluster yet"
	}
	if c.id == "" {
		c.id = status.GetClusterId()
	}
	if status.GetClusterId() != c.id {
		c.t.Fatalf("there is a second cluster: %s, before it was %s", status.GetClusterId(), c.id)
	}
	masters := 0
	var seen []string
	for _, p := range status.GetPods() {
		seen = append(seen, fmt.Sprintf("%s %s ready=%t %s", p.GetName(), p.GetRole(), p.GetReady(), p.GetNotReadyBecause()))
		switch {
		case p.GetRole() == kvv1.PodStatus_ROLE_MASTER:
			masters++
		case p.GetRole() != kvv1.PodStatus_ROLE_FOLLOWER:
			masters = -100
		}
		if !p.GetReady() || int(p.GetOrdinal()) >= c.replicas {
			masters = -100
		}
	}
	if masters != 1 || len(seen) != c.replicas {
		return fmt.Sprintf("%d members: %s", len(seen), strings.Join(seen, "; "))
	}
	return ""
}

// status is what the members say.
func (c *Cluster) status() *kvv1.StatusResponse {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	status, err := c.admin.Status(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return status
}

// members are the members' ids, in the order of ordinals.
func (c *Cluster) members() string {
	c.t.Helper()
	var ids []string
	for _, p := range c.status().GetPods() {
		ids = append(ids, p.GetMemberId())
	}
	return strings.Join(ids, " ")
}

// master is the master's name.
func (c *Cluster) master() string {
	c.t.Helper()
	for deadline := time.Now().Add(settlePatience); time.Now().Before(deadline); time.Sleep(poll) {
		for _, p := range c.status().GetPods() {
			if p.GetRole() == kvv1.PodStatus_ROLE_MASTER {
				return p.GetName()
			}
		}
	}
	c.t.Fatal("there is no master")
	return ""
}

// followers are the other pods' names.
func (c *Cluster) followers() []string {
	c.t.Helper()
	var names []string
	for _, p := range c.status().GetPods() {
		if p.GetRole() == kvv1.PodStatus_ROLE_FOLLOWER {
			names = append(names, p.GetName())
		}
	}
	return names
}

// handOver makes a pod the master, before anything is measured.
func (c *Cluster) handOver(to string) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); c.master() != to; time.Sleep(poll) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s does not become the master", to)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := c.admin.HandOver(ctx, to); err != nil {
			c.t.Logf("hand over to %s: %v", to, err)
		}
		cancel()
	}
	if c.load != nil {
		c.sample(context.Background()) // So that it is not taken for a later one.
	}
}

// kube is the pod as Kubernetes has it.
func (c *Cluster) kube(pod string) *corev1.Pod {
	c.t.Helper()
	p, err := c.api.CoreV1().Pods(c.namespace).Get(context.Background(), pod, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// self asks every pod about itself only; those that do not answer are left out.
func (c *Cluster) self(ctx context.Context) []*kvv1.StatusResponse {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	answers := make([]*kvv1.StatusResponse, c.replicas)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			conn, err := c.conn(c.pod(i))
			if err != nil {
				return
			}
			s, err := kvv1.NewClusterServiceClient(conn).Status(ctx, &kvv1.StatusRequest{ThisPodOnly: true})
			if err == nil && len(s.GetPods()) == 1 {
				answers[i] = s
			}
		})
	}
	all.Wait()
	var good []*kvv1.StatusResponse
	for _, s := range answers {
		if s != nil {
			good = append(good, s)
		}
	}
	return good
}

// conn is the bare connection to a pod.
func (c *Cluster) conn(address string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn, ok := c.conns[address]; ok {
		return conn, nil
	}
	conn, err := connect(address)
	if err == nil {
		c.conns[address] = conn
	}
	return conn, err
}
