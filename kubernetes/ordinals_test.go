package kubernetes

import (
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

const namespace = "databases"

func newSet(start, replicas int32) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kv", UID: "set-1"},
		Spec:       appsv1.StatefulSetSpec{Replicas: &replicas, Ordinals: &appsv1.StatefulSetOrdinals{Start: start}},
	}
}

// api is a fake API server with the objects given to it.
func api(t *testing.T, objects ...runtime.Object) *fake.FakeDynamicClient {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	place := &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: namespace, UID: "place-1"},
	}
	return fake.NewSimpleDynamicClient(scheme, append(objects, place)...)
}

func newPod(t *testing.T, client *fake.FakeDynamicClient, name string) *Pod {
	t.Helper()
	p, err := New(Options{Client: client, Namespace: namespace, Name: name, Interval: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// away lets every call fail until the function that it returns is called.
func away(client *fake.FakeDynamicClient) (back func()) {
	gone := true
	client.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return gone, nil, errors.New("connection refused")
	})
	return func() { gone = false }
}

func TestOrdinals(t *testing.T) {
	deleted := metav1.Now()
	for name, c := range map[string]struct {
		change           func(*appsv1.StatefulSet)
		covers, uncovers []int
		stops            bool
	}{
		"three pods":       {func(*appsv1.StatefulSet) {}, []int{5, 6, 7}, []int{0, 4, 8}, false},
		"replicas not set": {func(s *appsv1.StatefulSet) { s.Spec.Replicas = nil }, []int{5}, []int{4, 6}, false},
		"ordinals not set": {func(s *appsv1.StatefulSet) { s.Spec.Ordinals = nil }, []int{0, 2}, []int{3, 5}, false},
		"scaled to zero":   {func(s *appsv1.StatefulSet) { *s.Spec.Replicas = 0 }, []int{0, 5, 100}, nil, true},
		"being deleted":    {func(s *appsv1.StatefulSet) { s.DeletionTimestamp = &deleted }, []int{0, 5, 100}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			set := newSet(5, 3)
			c.change(set)
			p := newPod(t, api(t, set), "kv-5")
			o, err := p.ReadOrdinals(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, ordinal := range c.covers {
				if !o.Cover(ordinal) {
					t.Errorf("%+v does not cover %d", o, ordinal)
				}
			}
			for _, ordinal := range c.uncovers {
				if o.Cover(ordinal) {
					t.Errorf("%+v covers %d", o, ordinal)
				}
			}
			p.refresh(t.Context())
			if _, known := p.Ordinals(); known == c.stops {
				t.Errorf("known is %t, stopped %q", known, o.Stopped)
			}
		})
	}
}

// A StatefulSet that is not there is a stop, not a departure.
func TestOrdinalsWithoutStatefulSet(t *testing.T) {
	p := newPod(t, api(t), "kv-0")
	o, err := p.ReadOrdinals(t.Context())
	if err != nil || o.Stopped == "" || !o.Cover(7) {
		t.Errorf("%+v, %v", o, err)
	}
}

// What was read is known for a while, then forgotten, and known again when the
// API is back: an old value must not remove anybody.
func TestOrdinalsAreForgotten(t *testing.T) {
	client := api(t, newSet(0, 3))
	p := newPod(t, client, "kv-0")
	if _, known := p.Ordinals(); known {
		t.Error("known before it was read")
	}
	p.refresh(t.Context())
	if o, known := p.Ordinals(); !known || o.Replicas != 3 {
		t.Errorf("%+v, known %t", o, known)
	}
	back := away(client)
	p.refresh(t.Context())
	if _, known := p.Ordinals(); !known {
		t.Error("one failure made it forget")
	}
	time.Sleep(freshFor * p.opts.Interval)
	p.refresh(t.Context())
	if _, known := p.Ordinals(); known {
		t.Error("an old reading is still known")
	}
	back()
	p.refresh(t.Context())
	if _, known := p.Ordinals(); !known {
		t.Error("not known again")
	}
}
