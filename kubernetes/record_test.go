package kubernetes

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

// manifestRecord is the ConfigMap as the manifest makes it.
func manifestRecord() *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kv-cluster", ResourceVersion: "1",
			Labels: map[string]string{"app": "kv"}, Annotations: map[string]string{"applied": "by kubectl"}},
	}
}

// compareVersions lets the fake API look at the versions of ConfigMaps, as the real
// one does.
func compareVersions(client *fake.FakeDynamicClient) {
	client.PrependReactor("update", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
		update := a.(clienttesting.UpdateAction).GetObject().(*unstructured.Unstructured).DeepCopy()
		object, err := client.Tracker().Get(configMaps, namespace, "kv-cluster")
		if err != nil {
			return true, nil, err
		}
		if there := object.(*unstructured.Unstructured).GetResourceVersion(); there != update.GetResourceVersion() {
			return true, nil, apierrors.NewConflict(configMaps.GroupResource(), "kv-cluster", errors.New("it was changed"))
		}
		update.SetResourceVersion(update.GetResourceVersion() + "+")
		return true, update, client.Tracker().Update(configMaps, update, namespace)
	})
}

// Many ask at once, also with different disks: one founds, and is told so again. So
// it is with the ConfigMap of the manifest, and with one that a pod has to make.
//
// Scenario: S01
func TestFoundOnce(t *testing.T) {
	for name, objects := range map[string][]runtime.Object{
		"an empty ConfigMap": {newSet(0, 3), manifestRecord()},
		"no ConfigMap":       {newSet(0, 3)},
	} {
		t.Run(name, func(t *testing.T) { testFoundOnce(t, api(t, objects...)) })
	}
}

func testFoundOnce(t *testing.T, client *fake.FakeDynamicClient) {
	compareVersions(client)
	members := []string{"kv-0/a", "kv-0/b", "kv-0/c", "kv-0/d"}
	clusters, founders := make([]string, len(members)), make([]bool, len(members))
	var all sync.WaitGroup
	for i, member := range members {
		p := newPod(t, client, "kv-0")
		all.Go(func() {
			var err error
			if clusters[i], founders[i], err = p.Found(t.Context(), member, true, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	count := 0
	for i, member := range members {
		if clusters[i] == "" || clusters[i] != clusters[0] {
			t.Errorf("clusters %q", clusters)
		}
		again, founder, err := newPod(t, client, "kv-0").Found(t.Context(), member, true, nil)
		if again != clusters[0] || founder != founders[i] || err != nil {
			t.Errorf("%s asks again: %s, %t, %v", member, again, founder, err)
		}
		if founder {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d founders", count)
	}
}

func TestNotTheFounder(t *testing.T) {
	for name, c := range map[string]struct {
		start, replicas int32
		pod, because    string
	}{
		"not the lowest":   {0, 3, "kv-1", "only kv-0 may"},
		"start is not 0":   {5, 3, "kv-0", "only kv-5 may"},
		"scaled to zero":   {0, 0, "kv-0", "scaled to zero"},
		"no such set":      {0, 3, "other-0", "not found"},
		"numbers not text": {2, 12, "kv-10", "only kv-2 may"},
	} {
		t.Run(name, func(t *testing.T) {
			client := api(t, newSet(c.start, c.replicas))
			_, founder, err := newPod(t, client, c.pod).Found(t.Context(), c.pod+"/a", true, nil)
			if founder || err == nil || !strings.Contains(err.Error(), c.because) {
				t.Errorf("founder %t, %v", founder, err)
			}
		})
	}
}

// A disk that has met a cluster founds none, but hears of the one there is.
func TestAUsedDiskFoundsNothing(t *testing.T) {
	client := api(t, newSet(0, 3))
	p := newPod(t, client, "kv-0")
	if _, founder, err := p.Found(t.Context(), "kv-0/b", false, nil); founder || !errors.Is(err, ErrNoRecord) {
		t.Errorf("founder %t, %v", founder, err)
	}
	if _, err := p.KeepRecord(t.Context(), Record{Cluster: "c1"}); err != nil {
		t.Fatal(err)
	}
	if cluster, founder, err := p.Found(t.Context(), "kv-0/b", false, nil); cluster != "c1" || founder || err != nil {
		t.Errorf("%s, founder %t, %v", cluster, founder, err)
	}
}

// Silence permits nothing.
func TestNoFoundingWithoutAnAnswer(t *testing.T) {
	client := api(t, newSet(0, 3))
	back := away(client)
	p := newPod(t, client, "kv-0")
	if _, founder, err := p.Found(t.Context(), "kv-0/a", true, nil); founder || err == nil {
		t.Errorf("founder %t, %v", founder, err)
	}
	back()
	if _, founder, err := p.Found(t.Context(), "kv-0/a", true, nil); !founder || err != nil {
		t.Errorf("founder %t, %v", founder, err)
	}
}

// mustWrite writes a record where there is no ConfigMap.
func mustWrite(t *testing.T, p *Pod, r Record) {
	t.Helper()
	set, err := p.readSet(t.Context())
	if err == nil {
		err = p.write(t.Context(), p.owners(t.Context(), set, nil), nil, r)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeepRecord(t *testing.T) {
	own := Record{Cluster: "c1", Founder: "kv-0/a"}
	for name, c := range map[string]struct {
		there *Record
		keep  Record
		want  Record
	}{
		"none: it is written back":          {nil, own, own},
		"the same":                          {&own, Record{Cluster: "c1", Founder: "kv-1/b"}, own},
		"another cluster's is left alone":   {&Record{Cluster: "c2", Founder: "kv-0/z"}, own, Record{Cluster: "c2", Founder: "kv-0/z"}},
		"the one that was replaced":         {&own, Record{Cluster: "c3", Founder: "kv-1/b", Replaces: "c1"}, own},
		"a replaced one never comes back":   {&Record{Cluster: "c3", Replaces: "c1"}, own, Record{Cluster: "c3", Replaces: "c1"}},
		"another one than what is replaced": {&Record{Cluster: "c9"}, Record{Cluster: "c3", Replaces: "c1"}, Record{Cluster: "c9"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, api(t, newSet(0, 3)), "kv-1")
			if c.there != nil {
				mustWrite(t, p, *c.there)
			}
			got, err := p.KeepRecord(t.Context(), c.keep)
			if err != nil || got != c.want {
				t.Errorf("it says %+v, %v", got, err)
			}
			if got, err := p.Record(t.Context()); err != nil || got != c.want {
				t.Errorf("it reads %+v, %v", got, err)
			}
		})
	}
}

// A record is exchanged by one pod only, from what it has data of, and again if
// it does not know that it was.
func TestExchangeRecord(t *testing.T) {
	client := api(t, newSet(0, 3))
	p, other := newPod(t, client, "kv-1"), newPod(t, client, "kv-2")
	old := Record{Cluster: "c1", Founder: "kv-0/a"}
	mine, theirs := Record{Cluster: "c2", Founder: "kv-1/b", Replaces: "c1"}, Record{Cluster: "c3", Founder: "kv-2/c", Replaces: "c1"}
	mustWrite(t, p, old)
	object, err := client.Tracker().Get(configMaps, namespace, "kv-cluster")
	if err != nil {
		t.Fatal(err)
	}
	object.(*unstructured.Unstructured).SetResourceVersion("7")
	if err := client.Tracker().Update(configMaps, object, namespace); err != nil {
		t.Fatal(err)
	}
	// The fake API does not look at versions. First another pod is faster.
	version := "8"
	client.PrependReactor("update", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
		update := a.(clienttesting.UpdateAction).GetObject().(*unstructured.Unstructured)
		return update.GetResourceVersion() != version, nil, apierrors.NewConflict(configMaps.GroupResource(), "kv-cluster", errors.New("it was changed"))
	})
	if err := p.ExchangeRecord(t.Context(), "c1", mine); !apierrors.IsConflict(err) {
		t.Errorf("it was changed meanwhile: %v", err)
	}
	version = "7"
	for range 2 {
		if err := p.ExchangeRecord(t.Context(), "c1", mine); err != nil {
			t.Error(err)
		}
	}
	if err := other.ExchangeRecord(t.Context(), "c1", theirs); err == nil {
		t.Error("it was exchanged twice")
	}
	if got, err := p.Record(t.Context()); err != nil || got != mine {
		t.Errorf("it reads %+v, %v", got, err)
	}
	if err := p.ExchangeRecord(t.Context(), "c2", old); err != nil {
		t.Errorf("and back: %v", err)
	}
}

// The API has exchanged the record, answers that it does not know, and to the
// client's next try, which it makes by itself, that it has changed meanwhile.
func TestAnExchangeThatTheClientTriesAgain(t *testing.T) {
	for _, there := range []bool{false, true} {
		client := api(t, newSet(0, 3))
		p := newPod(t, client, "kv-1")
		mine := Record{Cluster: "c2", Founder: "kv-1/b", Replaces: "c1"}
		verb, refusal := "create", apierrors.NewAlreadyExists(configMaps.GroupResource(), "kv-cluster")
		if there {
			verb, refusal = "update", apierrors.NewConflict(configMaps.GroupResource(), "kv-cluster", errors.New("it was changed"))
			mustWrite(t, p, Record{Cluster: "c1", Founder: "kv-0/a"})
		}
		client.PrependReactor(verb, "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if _, _, err := clienttesting.ObjectReaction(client.Tracker())(a); err != nil {
				t.Error(err)
			}
			return true, nil, refusal
		})
		if err := p.ExchangeRecord(t.Context(), "c1", mine); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

// The StatefulSet is deleted and made again: the record gets the new owner
// before the old one takes it away.
func TestRecordFollowsItsOwner(t *testing.T) {
	client := api(t, newSet(0, 3))
	p := newPod(t, client, "kv-0")
	cluster, _, err := p.Found(t.Context(), "kv-0/a", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := client.Resource(statefulSets).Namespace(namespace).Get(t.Context(), "kv", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	set.SetUID("set-2")
	if _, err := client.Resource(statefulSets).Namespace(namespace).Update(t.Context(), set, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.KeepRecord(t.Context(), Record{Cluster: cluster, Founder: "kv-0/a"}); err != nil {
		t.Fatal(err)
	}
	m, err := p.readRecord(t.Context())
	if err != nil || len(m.OwnerReferences) != 1 || m.OwnerReferences[0].UID != types.UID("set-2") {
		t.Errorf("%+v, %v", m.OwnerReferences, err)
	}
}

// The record is deleted, the first volume is lost, and all others are silent: they
// may have data, and nobody founds. A claim that no pod was given yet is none, and
// a pod that says that it is empty is.
//
// Scenario: S19
func TestNoFoundingBesideOtherVolumes(t *testing.T) {
	claim := func(pod string, phase corev1.PersistentVolumeClaimPhase) runtime.Object {
		return &corev1.PersistentVolumeClaim{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "data-" + pod},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: phase},
		}
	}
	running := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kv-1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for name, c := range map[string]struct {
		templates bool
		there     []runtime.Object
		empty     []string
		founds    bool
	}{
		"nobody else yet":                  {true, nil, nil, true},
		"its own claim only":               {true, []runtime.Object{claim("kv-0", corev1.ClaimBound)}, nil, true},
		"a silent pod with a volume":       {true, []runtime.Object{claim("kv-1", corev1.ClaimBound)}, nil, false},
		"a silent pod with a lost volume":  {true, []runtime.Object{claim("kv-1", corev1.ClaimLost)}, nil, false},
		"one of them says it is empty":     {true, []runtime.Object{claim("kv-1", corev1.ClaimBound), claim("kv-2", corev1.ClaimBound)}, []string{"kv-1"}, false},
		"all of them say so":               {true, []runtime.Object{claim("kv-1", corev1.ClaimBound), claim("kv-2", corev1.ClaimBound)}, []string{"kv-2", "kv-1"}, true},
		"a volume that is not made yet":    {true, []runtime.Object{claim("kv-1", corev1.ClaimPending)}, nil, true},
		"a volume of a pod scaled away":    {true, []runtime.Object{claim("kv-4", corev1.ClaimBound)}, nil, false},
		"without claims, a pod that runs":  {false, []runtime.Object{running}, nil, false},
		"without claims, and it is empty":  {false, []runtime.Object{running}, []string{"kv-1"}, true},
		"without claims, and no other pod": {false, nil, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			set := newSet(0, 3)
			if c.templates {
				set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
			}
			p := newPod(t, api(t, append(c.there, set)...), "kv-0")
			if _, founder, err := p.Found(t.Context(), "kv-0/a", true, c.empty); founder != c.founds || (err == nil) != c.founds {
				t.Errorf("it founds: %t, %v", founder, err)
			}
		})
	}
}

// What is known of a pod that does not answer.
//
// Scenario: S45
func TestSibling(t *testing.T) {
	set := newSet(0, 3)
	set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	pod := func(name string, status corev1.PodStatus) runtime.Object {
		return &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Status: status}
	}
	container := func(state corev1.ContainerState) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{State: state}}
	}
	client := api(t, set,
		pod("kv-0", corev1.PodStatus{Phase: corev1.PodRunning}),
		pod("kv-1", corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: container(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})}),
		pod("kv-2", corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: container(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}})}),
		pod("kv-3", corev1.PodStatus{Phase: corev1.PodPending}),
		&corev1.PersistentVolumeClaim{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "data-kv-4"},
		})
	p := newPod(t, client, "kv-0")
	for name, want := range map[string]Sibling{
		"kv-0": {Runs: true}, "kv-1": {Runs: true}, "kv-2": {}, "kv-3": {}, "kv-4": {}, "kv-5": {Gone: true},
	} {
		if got, err := p.Sibling(t.Context(), name); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
	defer away(client)()
	if got, err := p.Sibling(t.Context(), "kv-5"); err == nil || got.Gone {
		t.Errorf("from an API that is away: %+v", got)
	}
}

// The record belongs to the claims of the pods that have data, too: it stays
// when the StatefulSet is deleted, and a first pod with a new disk founds nothing.
func TestRecordBelongsToClaims(t *testing.T) {
	set := newSet(0, 3)
	set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	objects := []runtime.Object{set}
	for _, pod := range []string{"kv-0", "kv-1"} {
		objects = append(objects, &corev1.PersistentVolumeClaim{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "data-" + pod, UID: types.UID("claim-" + pod)},
		})
	}
	client := api(t, objects...)
	cluster, _, err := newPod(t, client, "kv-0").Found(t.Context(), "kv-0/a", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range []string{"kv-0", "kv-1", "kv-2", "kv-1"} { // kv-2 has no claim
		if _, err := newPod(t, client, pod).KeepRecord(t.Context(), Record{Cluster: cluster}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := newPod(t, client, "kv-0").readRecord(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var owners []string
	for _, o := range m.OwnerReferences {
		owners = append(owners, o.Kind+" "+o.Name+" "+string(o.UID))
	}
	want := []string{"PersistentVolumeClaim data-kv-0 claim-kv-0", "PersistentVolumeClaim data-kv-1 claim-kv-1", "StatefulSet kv set-1"}
	if !slices.Equal(owners, want) {
		t.Errorf("owners %q", owners)
	}
}

func TestRecordOfADeletedSet(t *testing.T) {
	p := newPod(t, api(t), "kv-0")
	if _, err := p.KeepRecord(t.Context(), Record{Cluster: "c1"}); err == nil {
		t.Error("a record without an owner")
	}
	if _, err := p.Record(t.Context()); !errors.Is(err, ErrNoRecord) {
		t.Error(err)
	}
}

func TestPlace(t *testing.T) {
	client := api(t)
	p := newPod(t, client, "kv-0")
	place, err := p.Place(t.Context())
	if err != nil || place != namespace+"/place-1" || !p.InPlace(place) || p.InPlace("other/place-1") {
		t.Errorf("%q, %v", place, err)
	}
	away(client)
	if _, err := p.Place(t.Context()); err == nil {
		t.Error("an answer from nowhere")
	}
}
