package kubernetes

import (
	"errors"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Many ask at once, also with different disks: one founds, and is told so again.
func TestFoundOnce(t *testing.T) {
	client := api(t, statefulSet(0, 3))
	members := []string{"kv-0/a", "kv-0/b", "kv-0/c", "kv-0/d"}
	clusters, founders := make([]string, len(members)), make([]bool, len(members))
	var all sync.WaitGroup
	for i, member := range members {
		p := newPod(t, client, "kv-0")
		all.Go(func() {
			var err error
			if clusters[i], founders[i], err = p.Found(t.Context(), member); err != nil {
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
		again, founder, err := newPod(t, client, "kv-0").Found(t.Context(), member)
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
			client := api(t, statefulSet(c.start, c.replicas))
			_, founder, err := newPod(t, client, c.pod).Found(t.Context(), c.pod+"/a")
			if founder || err == nil || !strings.Contains(err.Error(), c.because) {
				t.Errorf("founder %t, %v", founder, err)
			}
		})
	}
}

// Silence permits nothing.
func TestNoFoundingWithoutAnAnswer(t *testing.T) {
	client := api(t, statefulSet(0, 3))
	back := away(client)
	p := newPod(t, client, "kv-0")
	if _, founder, err := p.Found(t.Context(), "kv-0/a"); founder || err == nil {
		t.Errorf("founder %t, %v", founder, err)
	}
	back()
	if _, founder, err := p.Found(t.Context(), "kv-0/a"); !founder || err != nil {
		t.Errorf("founder %t, %v", founder, err)
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
		"the one that was replaced":         {&own, Record{Cluster: "c3", Founder: "kv-1/b", Replaces: "c1"}, Record{Cluster: "c3", Founder: "kv-1/b", Replaces: "c1"}},
		"a replaced one never comes back":   {&Record{Cluster: "c3", Replaces: "c1"}, own, Record{Cluster: "c3", Replaces: "c1"}},
		"another one than what is replaced": {&Record{Cluster: "c9"}, Record{Cluster: "c3", Replaces: "c1"}, Record{Cluster: "c9"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, api(t, statefulSet(0, 3)), "kv-1")
			if c.there != nil {
				if err := p.create(t.Context(), statefulSet(0, 3), *c.there); err != nil {
					t.Fatal(err)
				}
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

// The StatefulSet is deleted and made again: the record gets the new owner
// before the old one takes it away.
func TestRecordFollowsItsOwner(t *testing.T) {
	client := api(t, statefulSet(0, 3))
	p := newPod(t, client, "kv-0")
	cluster, _, err := p.Found(t.Context(), "kv-0/a")
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
