package kubernetes

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

// mayNotCreate refuses what the Role does not permit.
func mayNotCreate(client *fake.FakeDynamicClient) {
	client.PrependReactor("create", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(configMaps.GroupResource(), "kv-cluster", errors.New("not permitted"))
	})
}

// An empty ConfigMap is no record: it is written without a creation, and keeps what
// the manifest says of it.
func TestEmptyRecord(t *testing.T) {
	own := Record{Cluster: "c1", Founder: "kv-0/a"}
	for name, write := range map[string]func(*Pod) error{
		"found":    func(p *Pod) error { _, _, err := p.Found(t.Context(), "kv-0/a", true, nil); return err },
		"keep":     func(p *Pod) error { _, err := p.KeepRecord(t.Context(), own); return err },
		"exchange": func(p *Pod) error { return p.ExchangeRecord(t.Context(), "c0", own) },
	} {
		t.Run(name, func(t *testing.T) {
			client := api(t, newSet(0, 3), manifestRecord())
			compareVersions(client)
			mayNotCreate(client)
			p := newPod(t, client, "kv-0")
			if _, err := p.Record(t.Context()); !errors.Is(err, ErrNoRecord) {
				t.Errorf("it is empty: %v", err)
			}
			if err := write(p); err != nil {
				t.Fatal(err)
			}
			if got, err := p.Record(t.Context()); err != nil || got.Founder != own.Founder || got.Cluster == "" {
				t.Errorf("%+v, %v", got, err)
			}
			m, err := p.readRecord(t.Context())
			if err != nil || m.Labels["app"] != "kv" || m.Annotations["applied"] == "" || len(m.OwnerReferences) != 1 {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
}

// A disk that has met a cluster founds none over an empty record either, nor does
// a fresh one beside volumes that may have data.
//
// Scenario: S19
func TestNoFoundingOverAnEmptyRecord(t *testing.T) {
	set := newSet(0, 3)
	set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	client := api(t, set, manifestRecord(), &corev1.PersistentVolumeClaim{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "data-kv-1"},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	})
	p := newPod(t, client, "kv-0")
	if _, founder, err := p.Found(t.Context(), "kv-0/b", false, nil); founder || !errors.Is(err, ErrNoRecord) {
		t.Errorf("a used disk: founder %t, %v", founder, err)
	}
	if _, founder, err := p.Found(t.Context(), "kv-0/b", true, nil); founder || err == nil || !strings.Contains(err.Error(), "kv-1 has a volume") {
		t.Errorf("beside a volume: founder %t, %v", founder, err)
	}
	if _, err := p.Record(t.Context()); !errors.Is(err, ErrNoRecord) {
		t.Error(err)
	}
}

// The record is written while a pod looks whether it may found: it founds nothing,
// and learns of the other cluster.
func TestARecordThatIsWrittenMeanwhile(t *testing.T) {
	client := api(t, newSet(0, 3), manifestRecord())
	compareVersions(client)
	p, faster := newPod(t, client, "kv-0"), newPod(t, client, "kv-1")
	there, err := p.readRecord(t.Context())
	if !errors.Is(err, ErrNoRecord) || there == nil {
		t.Fatalf("%+v, %v", there, err)
	}
	if _, err := faster.KeepRecord(t.Context(), Record{Cluster: "c1", Founder: "kv-1/b"}); err != nil {
		t.Fatal(err)
	}
	if got, err := p.found(t.Context(), there, "kv-0/a", nil); err != nil || got.Cluster != "c1" || got.Founder != "kv-1/b" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Without the ConfigMap, and without the right to make it, nothing is written, and
// the pod says what a person does.
func TestNoConfigMap(t *testing.T) {
	client := api(t, newSet(0, 3))
	mayNotCreate(client)
	p := newPod(t, client, "kv-0")
	if _, founder, err := p.Found(t.Context(), "kv-0/a", true, nil); founder || !errors.Is(err, ErrNoPlaceForRecord) {
		t.Errorf("founder %t, %v", founder, err)
	}
	if _, err := p.KeepRecord(t.Context(), Record{Cluster: "c1"}); !errors.Is(err, ErrNoPlaceForRecord) {
		t.Error(err)
	}
	if err := p.ExchangeRecord(t.Context(), "c1", Record{Cluster: "c2"}); !errors.Is(err, ErrNoPlaceForRecord) || errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

// Data that names no cluster is somebody's mistake, and not an empty record.
func TestARecordOfNoCluster(t *testing.T) {
	m := manifestRecord()
	m.Data = map[string]string{keyFounder: "kv-0/a"}
	p := newPod(t, api(t, newSet(0, 3), m), "kv-0")
	if _, founder, err := p.Found(t.Context(), "kv-0/a", true, nil); founder || err == nil || errors.Is(err, ErrNoRecord) {
		t.Errorf("founder %t, %v", founder, err)
	}
}
