package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// ErrNoRecord is returned when the StatefulSet has no cluster record: its ConfigMap
// is empty, as the manifest makes it, or is missing.
var ErrNoRecord = errors.New("there is no cluster record")

// ErrNoPlaceForRecord is returned when the record cannot be written: its ConfigMap
// is missing, and the pod may not create one.
var ErrNoPlaceForRecord = errors.New("the ConfigMap of the cluster record is missing, and a pod may not create it: apply the manifest again")

// ErrUnknown is returned when it is not known whether the record was exchanged, or
// will be: the API's answer was lost.
var ErrUnknown = errors.New("it is not known whether the cluster record was exchanged")

// Record says which cluster the StatefulSet runs.
type Record struct {
	// Cluster is its uuid.
	Cluster string
	// Founder is the member that may found it, or whose data it goes on from.
	Founder string
	// Replaces is the uuid of the cluster that this one goes on from, after a
	// recovery or an adoption; its data must not be served any more, but by pods
	// that have a quorum of it.
	Replaces string
}

// The keys of the record's data.
const (
	keyCluster  = "cluster"
	keyFounder  = "founder"
	keyReplaces = "replaces"
)

// recordName is the ConfigMap's.
func (p *Pod) recordName() string { return p.set + "-cluster" }

// Record reads the cluster record; ErrNoRecord: there is none.
func (p *Pod) Record(ctx context.Context) (Record, error) {
	m, err := p.readRecord(ctx)
	if err != nil {
		return Record{}, err
	}
	return recordIn(m), nil
}

func recordIn(m *configMap) Record {
	return Record{Cluster: m.Data[keyCluster], Founder: m.Data[keyFounder], Replaces: m.Data[keyReplaces]}
}

// readRecord reads the ConfigMap. With ErrNoRecord it is empty, or, if nil, missing:
// the difference matters only to write.
func (p *Pod) readRecord(ctx context.Context) (*configMap, error) {
	m := &configMap{}
	switch err := p.get(ctx, configMaps, p.recordName(), m); {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("%w: the ConfigMap %s is missing", ErrNoRecord, p.recordName())
	case err != nil:
		return nil, fmt.Errorf("read the cluster record: %w", err)
	case len(m.Data) == 0:
		return m, fmt.Errorf("%w: the ConfigMap %s is empty", ErrNoRecord, p.recordName())
	case m.Data[keyCluster] == "":
		return nil, fmt.Errorf("the cluster record, ConfigMap %s, names no cluster: write it there, or remove all of its data, and pods that have data write it again", p.recordName())
	}
	return m, nil
}

// Found asks which cluster a member without data belongs to, and whether it is
// the one that founds it. The member of the lowest ordinal founds a cluster
// when it writes the record; it is told so again when it asks again, for it
// may have died in between. Without a record, a disk that is not fresh, because
// it has met a cluster, waits until one of that cluster's pods has written the
// record again; and so does any disk while another pod may have data: it has a
// volume, and is not among those that have said that they are empty. An error says
// what is missing.
func (p *Pod) Found(ctx context.Context, member string, fresh bool, empty []string) (cluster string, founder bool, err error) {
	there, err := p.readRecord(ctx)
	var record Record
	switch {
	case err == nil:
		record = recordIn(there)
	case errors.Is(err, ErrNoRecord) && fresh:
		record, err = p.found(ctx, there, member, empty)
	}
	if err != nil {
		return "", false, err
	}
	return record.Cluster, record.Founder == member, nil
}

// found writes the record if the pod may found the cluster and nobody has touched
// the ConfigMap since it was read: what the pod checks was not otherwise before.
func (p *Pod) found(ctx context.Context, there *configMap, member string, empty []string) (Record, error) {
	set, err := p.readSet(ctx)
	if err != nil {
		return Record{}, err
	}
	founding := Founding{Set: p.set, Pod: p.opts.Name, Ordinals: ordinalsOf(set), Empty: empty}
	if because := founding.Refusal(); because != "" {
		return Record{}, errors.New(because)
	}
	if founding.Used, err = p.usedBeside(ctx, set, founding); err != nil {
		return Record{}, err
	}
	if because := founding.Refusal(); because != "" {
		return Record{}, errors.New(because)
	}
	return p.writeFirst(ctx, set, there, Record{Cluster: uuid.NewString(), Founder: member})
}

// writeFirst writes a record where there was none, and returns what is there
// instead if another pod was faster.
func (p *Pod) writeFirst(ctx context.Context, set *statefulSet, there *configMap, r Record) (Record, error) {
	err := p.write(ctx, p.owners(ctx, set, there), there, r)
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return p.Record(ctx)
	}
	return r, err
}

// owners are those whom the record belongs to: the StatefulSet, and the claim of
// each volume with data. It goes when the last of them goes: a StatefulSet that
// is deleted and made again finds the record of its volumes, also if the first
// pod lost its own; and when the claims are deleted as well, the next
// StatefulSet of the name begins anew.
func (p *Pod) owners(ctx context.Context, set *statefulSet, there *configMap) []metav1.OwnerReference {
	want := []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: set.Name, UID: set.UID}}
	if len(set.Spec.VolumeClaimTemplates) > 0 {
		name := set.Spec.VolumeClaimTemplates[0].Name + "-" + p.opts.Name
		if claim, err := p.resource(claims).Get(ctx, name, metav1.GetOptions{}); err == nil {
			want = append(want, metav1.OwnerReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Name: name, UID: claim.GetUID()})
		} else {
			p.opts.Logger.Debug("the cluster record does not belong to this pod's claim", slog.Any("error", err))
		}
	}
	if there == nil {
		there = &configMap{}
	}
	for _, o := range there.OwnerReferences {
		// An earlier object of the same name is gone, or about to be.
		if !slices.ContainsFunc(want, func(w metav1.OwnerReference) bool { return w.Kind == o.Kind && w.Name == o.Name }) {
			want = append(want, o)
		}
	}
	slices.SortFunc(want, func(a, b metav1.OwnerReference) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return want
}

// write puts a record into the ConfigMap as it was read, whose labels and
// annotations stay; nil: into a new one, which earlier manifests let pods make. It
// fails when the ConfigMap was changed, or made, since it was read.
func (p *Pod) write(ctx context.Context, owners []metav1.OwnerReference, there *configMap, r Record) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m := &configMap{}
	if there != nil {
		m.ObjectMeta = there.ObjectMeta
	}
	m.Kind, m.APIVersion, m.Name, m.Namespace = "ConfigMap", "v1", p.recordName(), p.opts.Namespace
	m.OwnerReferences = owners
	m.Data = map[string]string{keyCluster: r.Cluster, keyFounder: r.Founder}
	if r.Replaces != "" {
		m.Data[keyReplaces] = r.Replaces
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(m)
	if err != nil {
		return err
	}
	object := &unstructured.Unstructured{Object: fields}
	if there != nil {
		_, err = p.resource(configMaps).Update(ctx, object, metav1.UpdateOptions{})
	} else if _, err = p.resource(configMaps).Create(ctx, object, metav1.CreateOptions{}); apierrors.IsForbidden(err) {
		return fmt.Errorf("%w (%w)", ErrNoPlaceForRecord, err)
	}
	if err != nil {
		return fmt.Errorf("write the cluster record: %w", err)
	}
	return nil
}

// KeepRecord makes the record say what r says, r being what a pod with data
// knows, and returns what it says. The record is written when there is none,
// for it goes when its StatefulSet is deleted, and when it does not belong to
// this StatefulSet and this pod's claim, see owners. Any other record stays as it
// is.
func (p *Pod) KeepRecord(ctx context.Context, r Record) (Record, error) {
	set, err := p.readSet(ctx)
	if err != nil {
		return Record{}, err
	}
	if set.DeletionTimestamp != nil {
		return Record{}, errors.New("the StatefulSet is being deleted")
	}
	there, err := p.readRecord(ctx)
	if errors.Is(err, ErrNoRecord) {
		return p.writeFirst(ctx, set, there, r)
	}
	if err != nil {
		return Record{}, err
	}
	now := recordIn(there)
	owners := p.owners(ctx, set, there)
	owned := slices.EqualFunc(owners, there.OwnerReferences, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID })
	if now.Cluster != r.Cluster || owned {
		return now, nil
	}
	return now, p.write(ctx, owners, there, now)
}

// ExchangeRecord puts a record in the place of the one that names the cluster
// from, or of none. It fails, and changes nothing, when the record names another
// one, or is changed by somebody else meanwhile; it is done already when the record
// says the same. After ErrUnknown it may be done later.
func (p *Pod) ExchangeRecord(ctx context.Context, from string, to Record) error {
	set, err := p.readSet(ctx)
	if err != nil {
		return err
	}
	there, err := p.readRecord(ctx)
	if err != nil && !errors.Is(err, ErrNoRecord) {
		return err
	}
	if err == nil {
		switch now := recordIn(there); {
		case now == to:
			return nil
		case now.Cluster != from:
			return fmt.Errorf("the cluster record, ConfigMap %s, names the cluster %s by the data of %q, and not %s: another pod was faster",
				p.recordName(), now.Cluster, now.Founder, from)
		}
	}
	return p.exchanged(ctx, to, p.write(ctx, p.owners(ctx, set, there), there, to))
}

// exchanged looks at the record after an error. Not even a refusal says that nothing
// was done: the client tries again by itself when the API does not know, and is told
// then that the record has changed.
func (p *Pod) exchanged(ctx context.Context, to Record, err error) error {
	if err == nil {
		return nil
	}
	now, readErr := p.Record(ctx)
	var answer apierrors.APIStatus
	switch {
	case readErr == nil && now == to:
		return nil
	case (readErr == nil || errors.Is(readErr, ErrNoRecord)) && errors.As(err, &answer) && answer.Status().Code/100 == 4:
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// Place says where this pod is: the namespace's name and uid. A namespace of
// the same name in another Kubernetes cluster has another uid.
func (p *Pod) Place(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	object, err := p.opts.Client.Resource(namespaces).Get(ctx, p.opts.Namespace, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read the namespace %s: %w", p.opts.Namespace, err)
	}
	return p.opts.Namespace + "/" + string(object.GetUID()), nil
}

// InPlace says whether a place may be this pod's, as far as it is known without
// asking: it names this pod's namespace.
func (p *Pod) InPlace(place string) bool {
	return strings.HasPrefix(place, p.opts.Namespace+"/")
}
