package kubernetes

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ErrNoSecret is returned when a Secret that the manifest makes is not there.
var ErrNoSecret = errors.New("there is no such Secret")

// ErrChanged is returned when somebody else was faster.
var ErrChanged = errors.New("it has been changed meanwhile")

// Secret is one that was read.
type Secret struct {
	Name string
	Data map[string][]byte
	read *unstructured.Unstructured
}

// Secret reads the Secret <statefulset>-<name>.
func (p *Pod) Secret(ctx context.Context, name string) (*Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s := &Secret{Name: p.set + "-" + name, Data: map[string][]byte{}}
	object, err := p.resource(secrets).Get(ctx, s.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w: %s; apply the manifest again, which makes it empty", ErrNoSecret, s.Name)
	}
	if apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("read the Secret %s: %w; apply the manifest of this version, whose Role permits it", s.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the Secret %s: %w", s.Name, err)
	}
	s.read = object
	data, _, err := unstructured.NestedStringMap(object.Object, "data")
	if err != nil {
		return nil, fmt.Errorf("the Secret %s: %w", s.Name, err)
	}
	for key, text := range data {
		if s.Data[key], err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, fmt.Errorf("the Secret %s: %s: %w", s.Name, key, err)
		}
	}
	return s, nil
}

// UpdateSecret replaces the data of a Secret, unless it has changed since it was read;
// then with ErrChanged.
func (p *Pod) UpdateSecret(ctx context.Context, s *Secret, data map[string][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	encoded := map[string]any{}
	for key, value := range data {
		encoded[key] = base64.StdEncoding.EncodeToString(value)
	}
	object := s.read.DeepCopy() // with its resourceVersion, and all that others have put into it
	object.Object["data"] = encoded
	_, err := p.resource(secrets).Update(ctx, object, metav1.UpdateOptions{})
	switch {
	case apierrors.IsConflict(err):
		return fmt.Errorf("the Secret %s: %w", s.Name, ErrChanged)
	case err != nil:
		return fmt.Errorf("write the Secret %s: %w", s.Name, err)
	}
	return nil
}
