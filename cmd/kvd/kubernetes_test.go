package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/batondb/baton/kubernetes"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

const (
	namespace = "databases"
	patience  = 30 * time.Second
)

// statefulSet is a StatefulSet kv whose pods are goroutines: serve() of each, on
// loopback, over a fake Kubernetes API.
type statefulSet struct {
	t         *testing.T
	api       *fake.FakeDynamicClient
	dir       string
	addresses map[string]string // of the peer ports
	clients   map[string]string
	probes    map[string]string

	mu   sync.Mutex // guards the fields below
	away bool
	pods map[string]*running
}

// running is one pod's process.
type running struct {
	cancel context.CancelFunc
	ended  chan error
}

// newStatefulSet makes the API's objects, and no pod yet.
func newStatefulSet(t *testing.T, replicas int) *statefulSet {
	t.Helper()
	return newStatefulSetIn(t, "here", replicas)
}

// newStatefulSetIn makes it in the namespace of a given uid.
func newStatefulSetIn(t *testing.T, uid types.UID, replicas int) *statefulSet {
	t.Helper()
	s := &statefulSet{
		t: t, dir: t.TempDir(), pods: map[string]*running{},
		addresses: map[string]string{}, clients: map[string]string{}, probes: map[string]string{},
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(appsv1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	objects := []runtime.Object{&corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: namespace, UID: uid},
	}, &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kv-peer-ca"},
	}}
	for i := range 5 {
		name := fmt.Sprintf("kv-%d", i)
		objects = append(objects, &corev1.Pod{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		})
		s.addresses[name], s.clients[name], s.probes[name] = freeAddress(t), freeAddress(t), freeAddress(t)
	}
	s.api = fake.NewSimpleDynamicClient(scheme, objects...)
	s.api.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.away, nil, errors.New("connection refused")
	})
	s.restrict()
	s.create("set-1", replicas)
	t.Cleanup(func() { s.stopAll(slices.Collect(maps.Keys(s.pods))...) })
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := cluster.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

var (
	setsResource    = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}
	recordsResource = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	secretsResource = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	podsResource    = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
)

// restrict permits what the Role does: to update the ConfigMap and the Secret, of the
// version that was read, and not to make one.
func (s *statefulSet) restrict() {
	s.api.PrependReactor("create", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(recordsResource.GroupResource(), "kv-cluster", errors.New("the Role does not permit it"))
	})
	for _, resource := range []schema.GroupVersionResource{recordsResource, secretsResource} {
		s.api.PrependReactor("update", resource.Resource, func(a clienttesting.Action) (bool, runtime.Object, error) {
			update := a.(clienttesting.UpdateAction).GetObject().(*unstructured.Unstructured).DeepCopy()
			there, err := s.api.Tracker().Get(resource, namespace, update.GetName())
			if err != nil {
				return true, nil, err
			}
			if there.(*unstructured.Unstructured).GetResourceVersion() != update.GetResourceVersion() {
				return true, nil, apierrors.NewConflict(resource.GroupResource(), update.GetName(), errors.New("it was changed"))
			}
			update.SetResourceVersion(uuid.NewString())
			return true, update, s.api.Tracker().Update(resource, update, namespace)
		})
	}
	s.applyRecord()
}

// applyRecord makes the record's ConfigMap, as the manifest does.
func (s *statefulSet) applyRecord() {
	s.t.Helper()
	if err := s.api.Tracker().Create(recordsResource, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "kv-cluster", "namespace": namespace},
	}}, namespace); err != nil {
		s.t.Fatal(err)
	}
}

func (s *statefulSet) create(uid string, replicas int) {
	s.t.Helper()
	_, err := s.api.Resource(setsResource).Namespace(namespace).Create(s.t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "StatefulSet",
		"metadata": map[string]any{"name": "kv", "namespace": namespace, "uid": uid},
		"spec":     map[string]any{"replicas": int64(replicas)},
	}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
}

// remove deletes the StatefulSet, and the record with it.
func (s *statefulSet) remove() {
	s.t.Helper()
	err := errors.Join(
		s.api.Resource(setsResource).Namespace(namespace).Delete(s.t.Context(), "kv", metav1.DeleteOptions{}),
		s.api.Resource(recordsResource).Namespace(namespace).Delete(s.t.Context(), "kv-cluster", metav1.DeleteOptions{}))
	if err != nil {
		s.t.Fatal(err)
	}
}

// scale changes spec.replicas, also while the API is away for the pods.
func (s *statefulSet) scale(replicas int) {
	s.t.Helper()
	object, err := s.api.Tracker().Get(setsResource, namespace, "kv")
	if err != nil {
		s.t.Fatal(err)
	}
	set := object.(*unstructured.Unstructured)
	err = errors.Join(unstructured.SetNestedField(set.Object, int64(replicas), "spec", "replicas"),
		s.api.Tracker().Update(setsResource, set, namespace))
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *statefulSet) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *statefulSet) volume(name string) string { return filepath.Join(s.dir, name) }

func (s *statefulSet) config(name string) config {
	s.t.Helper()
	pod, err := kubernetes.New(kubernetes.Options{Client: s.api, Namespace: namespace, Name: name, Interval: 200 * time.Millisecond})
	if err != nil {
		s.t.Fatal(err)
	}
	return config{
		dataDir: s.volume(name), name: name, service: "kv", logLevel: "error",
		listenClient: s.clients[name], listenPeer: s.addresses[name], listenHTTP: s.probes[name],
		addresses: s.addresses, kubernetes: pod,
	}
}

func (s *statefulSet) start(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.startWith(s.config(name))
	}
}

// startWith starts a pod with a configuration of its own.
func (s *statefulSet) startWith(c config) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- serve(ctx, c) }()
	s.pods[c.name] = r
}

// stopAll tells pods to end, all at once, and waits until they have.
func (s *statefulSet) stopAll(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.pods[name].cancel()
	}
	for _, name := range names {
		if err := <-s.pods[name].ended; err != nil {
			s.t.Errorf("%s ended with: %v", name, err)
		}
		delete(s.pods, name)
	}
}

// eventually repeats a check until it gives no error.
func (s *statefulSet) eventually(what string, check func() error) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *statefulSet) awaitReady(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.eventually(name+" is ready", func() error { return s.ready(name) })
	}
}

// ready asks the probe.
func (s *statefulSet) ready(name string) error {
	response, err := http.Get("http://" + s.probes[name] + "/readyz?verbose")
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // It was only read.
	text := new(strings.Builder)
	if err := response.Write(text); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(text.String())
	}
	return nil
}

// call is for what calls a pod's client port.
func (s *statefulSet) call(name string, what func(context.Context, *grpc.ClientConn) error) error {
	s.t.Helper()
	conn, err := grpc.NewClient(s.clients[name], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // Nothing is under way.
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	return what(ctx, conn)
}

// status is the cluster as a pod sees it.
func (s *statefulSet) status(name string) (answer *kvv1.StatusResponse) {
	s.t.Helper()
	err := s.call(name, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		answer, err = kvv1.NewClusterServiceClient(conn).Status(ctx, &kvv1.StatusRequest{})
		return err
	})
	if err != nil {
		s.t.Log(err)
	}
	return answer
}

// startWhole starts pods, and returns when all of them are ready, and vote.
func (s *statefulSet) startWhole(names ...string) {
	s.t.Helper()
	s.start(names...)
	s.awaitReady(names...)
	s.awaitVoters(names[0], names...)
}

// awaitVoters waits until a pod sees exactly these voters, one of them the
// master and labelled so.
func (s *statefulSet) awaitVoters(asked string, names ...string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("the voters are %v", names), func() error {
		var voters, masters []string
		for _, p := range s.status(asked).GetPods() {
			voters = append(voters, p.GetName())
			if p.GetRole() == kvv1.PodStatus_ROLE_MASTER {
				masters = append(masters, p.GetName())
			}
		}
		if !slices.Equal(voters, names) || len(masters) != 1 {
			return fmt.Errorf("members %v, masters %v", voters, masters)
		}
		if label := s.label(masters[0]); label != "master" {
			return fmt.Errorf("the master %s is labelled %q", masters[0], label)
		}
		return nil
	})
}

func (s *statefulSet) label(name string) string {
	s.t.Helper()
	pod, err := s.api.Resource(podsResource).Namespace(namespace).Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return pod.GetLabels()[kubernetes.RoleLabel]
}

// S01, S13, S14: the record permits one founding; pods that are not wanted
// leave, all at once; their old volumes come back as new members.
//
// Scenario: S01, S13, S14
func TestScale(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 5)
	all := []string{"kv-4", "kv-3", "kv-2", "kv-1", "kv-0"}
	s.start(all...)
	s.awaitReady(all...)
	s.awaitVoters("kv-0", "kv-0", "kv-1", "kv-2", "kv-3", "kv-4")
	cluster := s.status("kv-0").GetClusterId()

	s.scale(1)
	s.stopAll("kv-4", "kv-3", "kv-2", "kv-1")
	s.awaitVoters("kv-0", "kv-0")
	for _, name := range all[:4] {
		if label := s.label(name); label != "" {
			t.Errorf("%s is still labelled %q", name, label)
		}
	}

	s.scale(3)
	s.start("kv-1", "kv-2")
	s.awaitReady("kv-1", "kv-2", "kv-0")
	s.awaitVoters("kv-2", "kv-0", "kv-1", "kv-2")
	if again := s.status("kv-2").GetClusterId(); again != cluster {
		t.Errorf("cluster %s, before %s", again, cluster)
	}
	for _, name := range []string{"kv-1", "kv-2"} {
		if aside, err := filepath.Glob(filepath.Join(s.volume(name), "removed-*")); err != nil || len(aside) != 1 {
			t.Errorf("%s set aside %v, %v", name, aside, err)
		}
	}
}

// S15, S16: a StatefulSet that is scaled to zero, deleted, or whose API is away
// is a stop: the members stay.
//
// Scenario: S15, S16
func TestStopIsNoDeparture(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	s.startWhole(all...)
	before := memberIDs(s.status("kv-0"))
	for name, c := range map[string]struct{ stop, back func() }{
		"scaled to zero":  {func() { s.scale(0) }, func() { s.scale(3) }},
		"deleted":         {s.remove, func() { s.applyRecord(); s.create("set-2", 3) }},
		"the API is away": {func() { s.scale(1); s.setAway(true) }, func() { s.awaitReady(all...); s.scale(3); s.setAway(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			c.stop()
			s.stopAll(all...)
			if name == "the API is away" {
				s.start(all...)
				c.back()
			} else {
				c.back()
				s.start(all...)
			}
			s.awaitReady(all...)
			s.awaitVoters("kv-0", all...)
			if after := memberIDs(s.status("kv-0")); !slices.Equal(before, after) {
				t.Errorf("members %v, before %v", after, before)
			}
		})
	}
}

func memberIDs(status *kvv1.StatusResponse) []string {
	ids := []string{status.GetClusterId()}
	for _, p := range status.GetPods() {
		ids = append(ids, p.GetMemberId())
	}
	return ids
}
