package kubernetes

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// statefulSet is what is read of a StatefulSet. The API's own types would add
// four megabytes to the server.
type statefulSet struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Replicas *int64 `json:"replicas"`
		Ordinals *struct {
			Start int64 `json:"start"`
		} `json:"ordinals"`
		VolumeClaimTemplates []struct {
			metav1.ObjectMeta `json:"metadata"`
		} `json:"volumeClaimTemplates"`
	} `json:"spec"`
}

// configMap is what is read and written of a ConfigMap.
type configMap struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Data              map[string]string `json:"data"`
}

// podObject is what is read of a Pod.
type podObject struct {
	metav1.ObjectMeta `json:"metadata"`
	Status            struct {
		Phase             string `json:"phase"`
		ContainerStatuses []struct {
			State struct {
				Running map[string]any `json:"running"`
			} `json:"state"`
		} `json:"containerStatuses"`
	} `json:"status"`
}

// runs says that a container of the pod runs, as far as Kubernetes knows. Of a
// node that is cut off it knows what was last so.
func (p *podObject) runs() bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running != nil {
			return true
		}
	}
	return len(p.Status.ContainerStatuses) == 0 && p.Status.Phase == "Running"
}

// claimObject is what is read of a PersistentVolumeClaim.
type claimObject struct {
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

// get reads an object of this pod's namespace into one of the types above.
func (p *Pod) get(ctx context.Context, kind schema.GroupVersionResource, name string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	object, err := p.resource(kind).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, into)
}
