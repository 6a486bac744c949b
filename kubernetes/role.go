package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// RoleLabel is the pod's label that says what it is: master, follower or
// learner. A Service selects the master by it.
const RoleLabel = "baton.kv/role"

// repeatRole is how often the label is said again when nothing has changed:
// somebody may have taken it away.
const repeatRole = 30

// SetRole labels this pod, or takes its label away when role is empty.
func (p *Pod) SetRole(ctx context.Context, role string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var value any // null removes the label
	if role != "" {
		value = role
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{RoleLabel: value}}})
	if err != nil {
		return err
	}
	// Through the status, which takes labels, but neither an image nor an owner.
	// The Roles of earlier manifests permit the pod itself instead.
	_, err = p.resource(pods).Patch(ctx, p.opts.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsForbidden(err) {
		if _, older := p.resource(pods).Patch(ctx, p.opts.Name, types.MergePatchType, patch, metav1.PatchOptions{}); older == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("label the pod %s: %w", p.opts.Name, err)
	}
	return nil
}

// Led says whether a pod of this StatefulSet is labelled as the master.
func (p *Pod) Led(ctx context.Context) (bool, error) {
	set, err := p.readSet(ctx)
	if err != nil {
		return false, err
	}
	ordinals := ordinalsOf(set)
	for o := ordinals.Start; o < ordinals.Start+ordinals.Replicas; o++ {
		object := &podObject{}
		switch err := p.get(ctx, pods, p.set+"-"+strconv.Itoa(o), object); {
		case apierrors.IsNotFound(err):
		case err != nil:
			return false, fmt.Errorf("read a pod's label: %w", err)
		case object.Labels[RoleLabel] == "master":
			return true, nil
		}
	}
	return false, nil
}

// KeepRole keeps the label true until ctx ends: it looks at the role when wake
// has a token, and every half interval, and tries again what failed.
func (p *Pod) KeepRole(ctx context.Context, role func() string, wake <-chan struct{}) {
	tick := time.NewTicker(p.opts.Interval / 2)
	defer tick.Stop()
	said, rounds, failing := "unknown", 0, false
	for {
		if want := role(); want != said || rounds >= repeatRole {
			err := p.SetRole(ctx, want)
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				if said != want {
					p.opts.Logger.Debug("labelled", slog.String("role", want))
				}
				said, rounds = want, 0
			case !failing:
				p.opts.Logger.Warn("the pod's role label is not true now; it is tried again until it is", slog.Any("error", err))
			}
			failing = err != nil
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-tick.C:
			rounds++
		}
	}
}
