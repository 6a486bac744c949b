package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/batondb/baton/test/workload"
)

// Namespace is where the pods of a simulation are.
const Namespace = "databases"

// API is the Kubernetes API's objects. Methods may be called by any goroutine.
type API struct {
	mu      sync.Mutex // Guards the fields below.
	objects map[string]*unstructured.Unstructured
	before  map[string]*unstructured.Unstructured // Each object's last version but one.
	version int
	silent  bool // Calls get no answer.
	stale   bool // Reads get the version before.
}

func newAPI() *API {
	return &API{objects: map[string]*unstructured.Unstructured{}, before: map[string]*unstructured.Unstructured{}}
}

func (a *API) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func objectKey(kind schema.GroupVersionResource, name string) string {
	return kind.Resource + "/" + name
}

// put stores an object, as its next version.
func (a *API) put(kind schema.GroupVersionResource, object *unstructured.Unstructured) {
	a.set(func() { a.store(objectKey(kind, object.GetName()), object) })
}

// keep stores an object unless there is one.
func (a *API) keep(kind schema.GroupVersionResource, object *unstructured.Unstructured) {
	a.set(func() {
		if key := objectKey(kind, object.GetName()); a.objects[key] == nil {
			a.store(key, object)
		}
	})
}

func (a *API) store(key string, object *unstructured.Unstructured) *unstructured.Unstructured {
	a.version++
	object = object.DeepCopy()
	object.SetResourceVersion(strconv.Itoa(a.version))
	if object.GetUID() == "" {
		object.SetUID(types.UID(fmt.Sprintf("uid-%d", a.version)))
	}
	if last := a.objects[key]; last != nil {
		a.before[key] = last
	}
	a.objects[key] = object
	return object.DeepCopy()
}

// remove deletes an object.
func (a *API) remove(kind schema.GroupVersionResource, name string) {
	a.set(func() {
		delete(a.objects, objectKey(kind, name))
		delete(a.before, objectKey(kind, name))
	})
}

// client is the API as one process sees it, until the process is dead, and while
// it is awake.
func (a *API) client(dead <-chan struct{}, awake func(context.Context) error) dynamic.Interface {
	return &apiClient{api: a, dead: dead, awake: awake}
}

type apiClient struct {
	api   *API
	dead  <-chan struct{}
	awake func(context.Context) error
}

func (c *apiClient) Resource(kind schema.GroupVersionResource) dynamic.NamespaceableResourceInterface {
	return &apiResource{apiClient: c, kind: kind}
}

// apiResource answers what Baton asks; anything else panics.
type apiResource struct {
	dynamic.NamespaceableResourceInterface
	*apiClient
	kind schema.GroupVersionResource
}

func (r *apiResource) Namespace(string) dynamic.ResourceInterface { return r }

// apiLatency is what a call takes.
const apiLatency = 5 * time.Millisecond

// call waits as a call does, and runs f over the objects.
func (r *apiResource) call(ctx context.Context, f func() (*unstructured.Unstructured, error)) (*unstructured.Unstructured, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.dead:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := errors.Join(r.awake(ctx), workload.Pause(ctx, apiLatency)); err != nil {
		return nil, err
	}
	r.api.mu.Lock()
	silent := r.api.silent
	r.api.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	r.api.mu.Lock()
	defer r.api.mu.Unlock()
	return f()
}

func (r *apiResource) find(name string) (*unstructured.Unstructured, error) {
	object := r.api.objects[objectKey(r.kind, name)]
	if object == nil {
		return nil, apierrors.NewNotFound(r.kind.GroupResource(), name)
	}
	return object, nil
}

func (r *apiResource) Get(ctx context.Context, name string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	return r.call(ctx, func() (*unstructured.Unstructured, error) {
		object, err := r.find(name)
		if err != nil {
			return nil, err
		}
		if before := r.api.before[objectKey(r.kind, name)]; r.api.stale && before != nil {
			object = before
		}
		return object.DeepCopy(), nil
	})
}

// errRole is what the Role does not permit.
var errRole = errors.New("the Role does not permit it")

func (r *apiResource) Create(ctx context.Context, object *unstructured.Unstructured, _ metav1.CreateOptions, _ ...string) (*unstructured.Unstructured, error) {
	return r.call(ctx, func() (*unstructured.Unstructured, error) {
		return nil, apierrors.NewForbidden(r.kind.GroupResource(), object.GetName(), errRole)
	})
}

func (r *apiResource) Update(ctx context.Context, object *unstructured.Unstructured, _ metav1.UpdateOptions, _ ...string) (*unstructured.Unstructured, error) {
	return r.call(ctx, func() (*unstructured.Unstructured, error) {
		there, err := r.find(object.GetName())
		if err != nil {
			return nil, err
		}
		if v := object.GetResourceVersion(); v != "" && v != there.GetResourceVersion() {
			return nil, apierrors.NewConflict(r.kind.GroupResource(), object.GetName(), errors.New("it has changed"))
		}
		object = object.DeepCopy()
		object.SetUID(there.GetUID())
		return r.api.store(objectKey(r.kind, object.GetName()), object), nil
	})
}

func (r *apiResource) Patch(ctx context.Context, name string, _ types.PatchType, data []byte, _ metav1.PatchOptions, of ...string) (*unstructured.Unstructured, error) {
	return r.call(ctx, func() (*unstructured.Unstructured, error) {
		if !slices.Equal(of, []string{"status"}) {
			return nil, apierrors.NewForbidden(r.kind.GroupResource(), name, errRole)
		}
		there, err := r.find(name)
		if err != nil {
			return nil, err
		}
		raw, err := json.Marshal(there)
		if err != nil {
			return nil, err
		}
		if raw, err = jsonpatch.MergePatch(raw, data); err != nil {
			return nil, err
		}
		object := &unstructured.Unstructured{}
		if err := json.Unmarshal(raw, object); err != nil {
			return nil, err
		}
		return r.api.store(objectKey(r.kind, name), object), nil
	})
}
