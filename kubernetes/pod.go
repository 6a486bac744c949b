package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

var (
	statefulSets = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}
	configMaps   = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	pods         = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	claims       = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	namespaces   = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	secrets      = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

const (
	// accountDir is where Kubernetes puts the service account's files.
	accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	// callTimeout bounds one call: an API server that is away mostly says nothing.
	callTimeout = 5 * time.Second
)

// Options of a Pod. Client, Namespace and Name are needed.
type Options struct {
	Client dynamic.Interface
	// Namespace is the pod's.
	Namespace string
	// Name is the pod's, <statefulset>-<ordinal>.
	Name   string
	Logger *slog.Logger // nil: none
	// Read reads a path of the API server; nil: only Client is there.
	Read func(ctx context.Context, path string) ([]byte, error)
	// ClockAhead is how far this machine's clock is ahead of the API server's, if that is
	// known; nil: it is not.
	ClockAhead func() (ahead time.Duration, known bool)
	// Interval is how often the StatefulSet is read; 2 s.
	Interval time.Duration
}

// Pod is this process as Kubernetes knows it. Its methods may be called by any
// goroutine.
type Pod struct {
	opts Options
	set  string // the StatefulSet's name

	mu   sync.Mutex // guards the field below
	last reading
}

// InCluster is the pod that this process is in.
func InCluster(name string, logger *slog.Logger) (*Pod, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	config.Timeout = callTimeout
	clock := &clock{}
	config.Wrap(func(inner http.RoundTripper) http.RoundTripper {
		clock.RoundTripper = inner
		return clock
	})
	web, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	client, err := dynamic.NewForConfigAndClient(config, web)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	namespace, err := os.ReadFile(accountDir + "/namespace")
	if err != nil {
		return nil, fmt.Errorf("kubernetes: the pod's namespace: %w", err)
	}
	return New(Options{
		Client: client, Namespace: strings.TrimSpace(string(namespace)), Name: name, Logger: logger,
		Read: reader(web, config.Host), ClockAhead: clock.known,
	})
}

// New is a pod with a given client.
func New(o Options) (*Pod, error) {
	set := o.Name[:max(0, strings.LastIndexByte(o.Name, '-'))]
	if o.Client == nil || o.Namespace == "" || set == "" {
		return nil, errors.New("kubernetes: Client, Namespace and a Name as kv-0 are needed")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Interval == 0 {
		o.Interval = 2 * time.Second
	}
	return &Pod{opts: o, set: set}, nil
}

// Namespace is the pod's.
func (p *Pod) Namespace() string { return p.opts.Namespace }

// resource is one kind of objects in the pod's namespace.
func (p *Pod) resource(kind schema.GroupVersionResource) dynamic.ResourceInterface {
	return p.opts.Client.Resource(kind).Namespace(p.opts.Namespace)
}

// Run keeps what is read by itself up to date until ctx ends.
func (p *Pod) Run(ctx context.Context) {
	tick := time.NewTicker(p.opts.Interval)
	defer tick.Stop()
	for {
		p.refresh(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
