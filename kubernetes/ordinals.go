package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// freshFor is how many intervals a reading counts. A removal that rests on it
// can be wrong only by what was changed since: a pod that was wanted, then not,
// then wanted again, within seconds.
const freshFor = 3

// Ordinals are the pods that a StatefulSet wants, or, when Stopped says why,
// a StatefulSet that stops: then nobody leaves.
type Ordinals struct {
	Start, Replicas int
	// Stopped is empty, or says why the spec is no word on who should exist.
	Stopped string
}

// Cover says whether the pod of an ordinal should exist. Of a StatefulSet that
// stops every pod should.
func (o Ordinals) Cover(ordinal int) bool {
	return o.Stopped != "" || ordinal >= o.Start && ordinal < o.Start+o.Replicas
}

// reading is what was read last, and when.
type reading struct {
	ordinals Ordinals
	at       time.Time
	failing  bool
}

// ReadOrdinals asks the API now.
func (p *Pod) ReadOrdinals(ctx context.Context) (Ordinals, error) {
	set, err := p.readSet(ctx)
	switch {
	case apierrors.IsNotFound(err):
		return Ordinals{Stopped: "the StatefulSet is deleted"}, nil
	case err != nil:
		return Ordinals{}, err
	}
	return ordinalsOf(set), nil
}

func (p *Pod) readSet(ctx context.Context) (*statefulSet, error) {
	set := &statefulSet{}
	if err := p.get(ctx, statefulSets, p.set, set); err != nil {
		return nil, fmt.Errorf("read the StatefulSet %s: %w", p.set, err)
	}
	return set, nil
}

func ordinalsOf(set *statefulSet) Ordinals {
	o := Ordinals{Replicas: 1} // the API's default
	if set.Spec.Replicas != nil {
		o.Replicas = int(*set.Spec.Replicas)
	}
	if set.Spec.Ordinals != nil {
		o.Start = int(set.Spec.Ordinals.Start)
	}
	switch {
	case set.DeletionTimestamp != nil:
		o.Stopped = "the StatefulSet is being deleted"
	case o.Replicas == 0:
		o.Stopped = "the StatefulSet is scaled to zero"
	}
	return o
}

// Ordinals is what Run has read lately; known is false when it could not, or
// when the StatefulSet stops.
func (p *Pod) Ordinals() (o Ordinals, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := !p.last.at.IsZero() && time.Since(p.last.at) < freshFor*p.opts.Interval
	return p.last.ordinals, fresh && p.last.ordinals.Stopped == ""
}

// refresh reads once. The time that counts is that before the question.
func (p *Pod) refresh(ctx context.Context) {
	asked := time.Now()
	ordinals, err := p.ReadOrdinals(ctx)
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	before := p.last
	if err == nil {
		p.last = reading{ordinals: ordinals, at: asked}
	} else {
		p.last.failing = true
	}
	p.mu.Unlock()
	switch {
	case err != nil && !before.failing:
		p.opts.Logger.Warn("the Kubernetes API does not tell which pods should exist; nothing depends on it but "+
			"founding a cluster, leaving it, and the role label; check the Role if it goes on", slog.Any("error", err))
	case err == nil && (before.failing || before.at.IsZero() || before.ordinals != ordinals):
		p.opts.Logger.Info("the StatefulSet was read", slog.Int("replicas", ordinals.Replicas),
			slog.Int("start", ordinals.Start), slog.String("stopped", ordinals.Stopped))
	}
}
