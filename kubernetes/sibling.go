package kubernetes

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Sibling is what Kubernetes knows of another pod of the StatefulSet.
type Sibling struct {
	// Runs: a container of it runs, as far as its node has told.
	Runs bool
	// Gone: there is neither the pod nor its claim.
	Gone bool
}

// Sibling asks the API for a pod of this StatefulSet, and for its claim.
func (p *Pod) Sibling(ctx context.Context, name string) (Sibling, error) {
	object := &podObject{}
	err := p.get(ctx, pods, name, object)
	switch {
	case err == nil:
		return Sibling{Runs: object.runs()}, nil
	case !apierrors.IsNotFound(err):
		return Sibling{}, fmt.Errorf("read the pod %s: %w", name, err)
	}
	phase, err := p.claimOf(ctx, name)
	return Sibling{Gone: err == nil && phase == ""}, err
}

// claimOf is the phase of a pod's claim; empty: there is no such claim.
func (p *Pod) claimOf(ctx context.Context, name string) (phase string, err error) {
	set, err := p.readSet(ctx)
	if err != nil {
		return "", err
	}
	if len(set.Spec.VolumeClaimTemplates) == 0 {
		return "Bound", nil // To what is not known: nothing shows that it is gone.
	}
	claim := &claimObject{}
	err = p.get(ctx, claims, set.Spec.VolumeClaimTemplates[0].Name+"-"+name, claim)
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read the claim of %s: %w", name, err)
	case claim.Status.Phase == "":
		return "Pending", nil
	}
	return claim.Status.Phase, nil
}
