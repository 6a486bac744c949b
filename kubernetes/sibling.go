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
	set, err := p.readSet(ctx)
	if err != nil || len(set.Spec.VolumeClaimTemplates) == 0 {
		return Sibling{}, err // Where its volume is, is not known.
	}
	phase, err := p.claimOf(ctx, set, name)
	return Sibling{Gone: err == nil && phase == ""}, err
}

// Gone says whether a pod of this StatefulSet and its volume are known to be no
// more. It fails when they may be there, however silent the pod is from here.
func (p *Pod) Gone(ctx context.Context, name string) (bool, error) {
	sibling, err := p.Sibling(ctx, name)
	switch {
	case err != nil:
		return false, fmt.Errorf("%s does not answer, and what became of it is not known: %w", name, err)
	case sibling.Runs:
		return false, fmt.Errorf("%s does not answer this pod, and Kubernetes says that it runs: one of the two may only be cut off, and %s may have a quorum. "+
			"If its volume is lost, delete its claim and the pod; if its node is, delete the node", name, name)
	}
	return sibling.Gone, nil
}

// mayHaveData says whether a pod has a volume that something may have been
// written to. One that no pod was given yet is empty. Without claims it is any pod
// that runs.
func (p *Pod) mayHaveData(ctx context.Context, set *statefulSet, name string) (bool, error) {
	if len(set.Spec.VolumeClaimTemplates) == 0 {
		sibling, err := p.Sibling(ctx, name)
		return sibling.Runs, err
	}
	phase, err := p.claimOf(ctx, set, name)
	return phase != "" && phase != claimPending, err
}

// claimPending is the phase of a claim without a volume.
const claimPending = "Pending"

// claimOf is the phase of a pod's claim, in a StatefulSet that has them; empty:
// there is no such claim.
func (p *Pod) claimOf(ctx context.Context, set *statefulSet, name string) (phase string, err error) {
	claim := &claimObject{}
	err = p.get(ctx, claims, set.Spec.VolumeClaimTemplates[0].Name+"-"+name, claim)
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read the claim of %s: %w", name, err)
	case claim.Status.Phase == "":
		return claimPending, nil
	}
	return claim.Status.Phase, nil
}
