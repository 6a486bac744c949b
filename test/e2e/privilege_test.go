//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// What whoever has a pod's token can do with it: what the pod needs, and nothing
// to another pod.
func TestLeastPrivilege(t *testing.T) {
	c := prepare(t, 3)
	c.apply("")
	c.settle()
	record := c.kubectl("get", "configmap", "kv-cluster", "-o", "jsonpath={.data}")
	c.apply("")
	if after := c.kubectl("get", "configmap", "kv-cluster", "-o", "jsonpath={.data}"); after != record || !strings.Contains(record, c.id) {
		t.Errorf("the record was %s, and is %s since the manifest was applied again", record, after)
	}
	token, unbound := c.as(first), c.as(nil)
	t.Run("list", func(t *testing.T) {
		mayOnly(t, token, c.namespace, append(always, "get secrets kv-peer-ca", "update secrets kv-peer-ca")...)
	})
	t.Run("pods", func(t *testing.T) { c.patchesRefused(t, token) })
	t.Run("objects", func(t *testing.T) { c.objectsRefused(t, token) })
	t.Run("own label", func(t *testing.T) {
		for _, role := range []string{`"learner"`, `null`, `"follower"`} {
			if _, err := c.patch(token, "kv-0", fmt.Sprintf(`{"metadata":{"labels":{"baton.kv/role":%s}}}`, role), "status"); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("a token of no pod", func(t *testing.T) {
		if _, err := c.patch(unbound, "kv-0", `{"metadata":{"labels":{"baton.kv/role":"master"}}}`, "status"); !apierrors.IsForbidden(err) {
			t.Errorf("it labels a pod: %v", err)
		}
	})
}

// first is the pod kv-0, as a token names it.
var first = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "kv-0"}

// always is what a pod may do, wherever its certificate comes from.
var always = []string{
	"get configmaps kv-cluster",
	"get namespaces",
	"get persistentvolumeclaims",
	"get pods",
	"get statefulsets kv",
	"patch pods/status",
	"update configmaps kv-cluster",
}

// as is the API with a token of the pods' service account.
func (c *Cluster) as(bound *authenticationv1.BoundObjectReference) kubernetes.Interface {
	c.t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}
	token, err := c.api.CoreV1().ServiceAccounts(c.namespace).CreateToken(context.Background(), "kv", request, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	config, err := apiConfig()
	if err != nil {
		c.t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.BearerToken = token.Status.Token
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		c.t.Fatal(err)
	}
	return api
}

// mayOnly compares what the token may do with what the pods ask for, beside what
// everybody may: to ask who they are, and what they may.
func mayOnly(t *testing.T, token kubernetes.Interface, namespace string, want ...string) {
	t.Helper()
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
	review, err := token.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rule := range review.Status.ResourceRules {
		if strings.HasPrefix(rule.APIGroups[0], "auth") {
			continue
		}
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s", verb, resource, strings.Join(rule.ResourceNames, " "))))
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("it may\n%s\nand should only\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (c *Cluster) patch(token kubernetes.Interface, pod, patch string, of ...string) (*corev1.Pod, error) {
	return token.CoreV1().Pods(c.namespace).Patch(context.Background(), pod, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, of...)
}

func (c *Cluster) patchesRefused(t *testing.T, token kubernetes.Interface) {
	// The API server learns of a new policy within some seconds.
	const label = `{"metadata":{"labels":{"baton.kv/role":"learner"}}}`
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(poll) {
		_, err := c.patch(token, "kv-1", label, "status")
		if apierrors.IsForbidden(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it labels another pod: %v", err)
		}
	}
	const owner = `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"none","uid":"none"}]}}`
	const image = `{"spec":{"containers":[{"name":"kvd","image":"baton.invalid/none"}]}}`
	for _, pod := range []string{"kv-0", "kv-1"} {
		for _, patch := range []string{label, owner, image, `{"metadata":{"annotations":{"a":"b"}}}`} {
			if _, err := c.patch(token, pod, patch); !apierrors.IsForbidden(err) {
				t.Errorf("%s of %s: %v", patch, pod, err)
			}
		}
		for _, patch := range []string{
			`{"metadata":{"labels":{"app.kubernetes.io/instance":"other"}}}`,
			`{"metadata":{"labels":{"app.kubernetes.io/instance":null}}}`,
			`{"metadata":{"labels":{"other":"label"}}}`,
			`{"metadata":{"labels":{"baton.kv/role":"owner"}}}`,
			`{"metadata":{"annotations":{"a":"b"}}}`,
			`{"metadata":{"finalizers":["baton.kv/forever"]}}`,
			`{"status":{"podIP":"192.0.2.1","podIPs":[{"ip":"192.0.2.1"}]}}`,
			`{"status":{"phase":"Failed"}}`,
		} {
			if _, err := c.patch(token, pod, patch, "status"); !apierrors.IsForbidden(err) {
				t.Errorf("%s of the status of %s: %v", patch, pod, err)
			}
		}
	}
	// These the status leaves out, so there may be nothing to refuse.
	before := c.kube("kv-0")
	for _, patch := range []string{owner, image} {
		_, _ = c.patch(token, "kv-0", patch, "status")
	}
	after := c.kube("kv-0")
	if after.OwnerReferences[0].UID != before.OwnerReferences[0].UID || after.Spec.Containers[0].Image != before.Spec.Containers[0].Image {
		t.Errorf("the pod has the owner %v and the image %s", after.OwnerReferences, after.Spec.Containers[0].Image)
	}
}

func (c *Cluster) objectsRefused(t *testing.T, token kubernetes.Interface) {
	ctx, core := t.Context(), token.CoreV1()
	one := metav1.ObjectMeta{Name: "one"}
	for what, try := range map[string]func() error{
		"create a ConfigMap": func() error {
			_, err := core.ConfigMaps(c.namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: one}, metav1.CreateOptions{})
			return err
		},
		"read another ConfigMap": func() error {
			_, err := core.ConfigMaps(c.namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
			return err
		},
		"delete the record": func() error { return core.ConfigMaps(c.namespace).Delete(ctx, "kv-cluster", metav1.DeleteOptions{}) },
		"list Secrets":      func() error { _, err := core.Secrets(c.namespace).List(ctx, metav1.ListOptions{}); return err },
		"create a Secret": func() error {
			_, err := core.Secrets(c.namespace).Create(ctx, &corev1.Secret{ObjectMeta: one}, metav1.CreateOptions{})
			return err
		},
		"list pods":    func() error { _, err := core.Pods(c.namespace).List(ctx, metav1.ListOptions{}); return err },
		"delete a pod": func() error { return core.Pods(c.namespace).Delete(ctx, "kv-1", metav1.DeleteOptions{}) },
		"delete a claim": func() error {
			return core.PersistentVolumeClaims(c.namespace).Delete(ctx, "data-kv-1", metav1.DeleteOptions{})
		},
		"read another namespace": func() error { _, err := core.Namespaces().Get(ctx, "default", metav1.GetOptions{}); return err },
		"make a token": func() error {
			_, err := core.ServiceAccounts(c.namespace).CreateToken(ctx, "kv", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		},
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
