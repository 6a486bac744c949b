package kubernetes

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

func labelled(t *testing.T, client *fake.FakeDynamicClient) map[string]string {
	t.Helper()
	pod, err := client.Resource(pods).Namespace(namespace).Get(t.Context(), "kv-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod.GetLabels()
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// The label follows the role, also when the API was away at the change, and
// when somebody else took it; other labels stay.
func TestKeepRole(t *testing.T) {
	client := api(t, &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kv-0", Labels: map[string]string{"app": "kv", RoleLabel: "master"}},
	})
	p := newPod(t, client, "kv-0")
	var role atomic.Value
	role.Store("")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	wake := make(chan struct{}, 1)
	go func() {
		defer close(ended)
		p.KeepRole(ctx, func() string { return role.Load().(string) }, wake)
	}()
	defer func() { cancel(); <-ended }()

	eventually(t, "an old label goes", func() bool { _, ok := labelled(t, client)[RoleLabel]; return !ok })
	role.Store("follower")
	wake <- struct{}{}
	eventually(t, "follower", func() bool { return labelled(t, client)[RoleLabel] == "follower" })
	if err := p.SetRole(t.Context(), "master"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is said again", func() bool { return labelled(t, client)[RoleLabel] == "follower" })
	if labelled(t, client)["app"] != "kv" {
		t.Error("another label is gone")
	}
}

func TestRoleWhileTheAPIIsAway(t *testing.T) {
	server := newFlakyServer(t)
	p := server.pod(t, "kv-0")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.KeepRole(ctx, func() string { return "master" }, nil)
	}()
	defer func() { cancel(); <-ended }()
	eventually(t, "it tries again", func() bool { return server.refused.Load() > 2 })
	server.up.Store(true)
	eventually(t, "the label is true", func() bool {
		body, _ := server.patched.Load().(string)
		return body == `{"metadata":{"labels":{"baton.kv/role":"master"}}}`
	})
}

// A Role of before permits to patch the pod itself, and not its status.
func TestRoleUnderTheRoleOfBefore(t *testing.T) {
	client := api(t, &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kv-0"},
	})
	permitted := ""
	client.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return a.GetSubresource() != permitted, nil, apierrors.NewForbidden(pods.GroupResource(), "kv-0", nil)
	})
	p := newPod(t, client, "kv-0")
	for _, permitted = range []string{"", "status"} {
		if err := p.SetRole(t.Context(), "follower"); err != nil || labelled(t, client)[RoleLabel] != "follower" {
			t.Errorf("permitted is %q: %v", permitted, err)
		}
		if err := p.SetRole(t.Context(), ""); err != nil {
			t.Error(err)
		}
	}
	permitted = "none"
	if err := p.SetRole(t.Context(), "follower"); !apierrors.IsForbidden(err) {
		t.Error(err)
	}
}
