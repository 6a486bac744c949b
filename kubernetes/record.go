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
)

// ErrNoRecord is returned when the StatefulSet has no cluster record.
var ErrNoRecord = errors.New("there is no cluster record")

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

func (p *Pod) readRecord(ctx context.Context) (*configMap, error) {
	m := &configMap{}
	switch err := p.get(ctx, configMaps, p.recordName(), m); {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("%w: ConfigMap %s", ErrNoRecord, p.recordName())
	case err != nil:
		return nil, fmt.Errorf("read the cluster record: %w", err)
	case m.Data[keyCluster] == "":
		return nil, fmt.Errorf("the cluster record, ConfigMap %s, names no cluster: write it there, or delete the ConfigMap, and pods that have data write it again", p.recordName())
	}
	return m, nil
}

// Found asks which cluster a member without data belongs to, and whether it is
// the one that founds it. The member of the lowest ordinal founds a cluster
// when it creates the record; it is told so again when it asks again, for it
// may have died in between. Without a record, a disk that is not fresh, because
// it has met a cluster, waits until one of that cluster's pods has written the
// record again; and so does any disk while another pod may have data: it has a
// volume, and is not among those that have said that they are empty. An error says
// what is missing.
func (p *Pod) Found(ctx context.Context, member string, fresh bool, empty []string) (cluster string, founder bool, err error) {
	record, err := p.Record(ctx)
	if errors.Is(err, ErrNoRecord) && fresh {
		record, err = p.found(ctx, member, empty)
	}
	if err != nil {
		return "", false, err
	}
	return record.Cluster, record.Founder == member, nil
}

func (p *Pod) found(ctx context.Context, member string, empty []string) (Record, error) {
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
	record := Record{Cluster: uuid.NewString(), Founder: member}
	err = p.create(ctx, set, record)
	if apierrors.IsAlreadyExists(err) {
		return p.Record(ctx)
	}
	return record, err
}

func (p *Pod) create(ctx context.Context, set *statefulSet, r Record) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := p.resource(configMaps).Create(ctx, p.recordObject(p.owners(ctx, set, nil), r), metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create the cluster record: %w", err)
	}
	return nil
}

// owners are those whom the record belongs to: the StatefulSet, and the claim of
// each volume with data. It goes when the last of them goes: a StatefulSet that
// is deleted and made again finds the record of its volumes, also if the first
// pod lost its own; and when the claims are deleted as well, the next
// StatefulSet of the name begins anew.
func (p *Pod) owners(ctx context.Context, set *statefulSet, there []metav1.OwnerReference) []metav1.OwnerReference {
	want := []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: set.Name, UID: set.UID}}
	if len(set.Spec.VolumeClaimTemplates) > 0 {
		name := set.Spec.VolumeClaimTemplates[0].Name + "-" + p.opts.Name
		if claim, err := p.resource(claims).Get(ctx, name, metav1.GetOptions{}); err == nil {
			want = append(want, metav1.OwnerReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Name: name, UID: claim.GetUID()})
		} else {
			p.opts.Logger.Debug("the cluster record does not belong to this pod's claim", slog.Any("error", err))
		}
	}
	for _, o := range there {
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

// recordObject is the record as the API takes it.
func (p *Pod) recordObject(owners []metav1.OwnerReference, r Record) *unstructured.Unstructured {
	references := []any{}
	for _, o := range owners {
		references = append(references, map[string]any{"apiVersion": o.APIVersion, "kind": o.Kind, "name": o.Name, "uid": string(o.UID)})
	}
	data := map[string]any{keyCluster: r.Cluster, keyFounder: r.Founder}
	if r.Replaces != "" {
		data[keyReplaces] = r.Replaces
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": p.recordName(), "namespace": p.opts.Namespace,
			"ownerReferences": references,
		},
		"data": data,
	}}
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
		err = p.create(ctx, set, r)
		if apierrors.IsAlreadyExists(err) {
			return p.Record(ctx)
		}
		return r, err
	}
	if err != nil {
		return Record{}, err
	}
	now := recordIn(there)
	owners := p.owners(ctx, set, there.OwnerReferences)
	owned := slices.EqualFunc(owners, there.OwnerReferences, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID })
	if now.Cluster != r.Cluster || owned {
		return now, nil
	}
	return now, p.update(ctx, owners, there, now)
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
	if errors.Is(err, ErrNoRecord) {
		return p.exchanged(ctx, to, p.create(ctx, set, to))
	}
	if err != nil {
		return err
	}
	switch now := recordIn(there); {
	case now == to:
		return nil
	case now.Cluster != from:
		return fmt.Errorf("the cluster record, ConfigMap %s, names the cluster %s by the data of %q, and not %s: another pod was faster",
			p.recordName(), now.Cluster, now.Founder, from)
	}
	return p.exchanged(ctx, to, p.update(ctx, p.owners(ctx, set, there.OwnerReferences), there, to))
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

// update fails when the record has changed since it was read.
func (p *Pod) update(ctx context.Context, owners []metav1.OwnerReference, there *configMap, r Record) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	object := p.recordObject(owners, r)
	object.SetResourceVersion(there.ResourceVersion)
	if _, err := p.resource(configMaps).Update(ctx, object, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update the cluster record: %w", err)
	}
	return nil
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
