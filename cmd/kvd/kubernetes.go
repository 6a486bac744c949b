package main

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/kubernetes/place"
	"github.com/batondb/baton/kubernetes/tokens"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/node"
)

const (
	// askOrdinals bounds how long a stop asks whether this pod should exist.
	askOrdinals = 2 * time.Second
	// unlabelTimeout bounds the removal of the role label at the end.
	unlabelTimeout = time.Second
)

// kubernetesPod deals with Kubernetes for as long as this pod lives. It is nil
// outside Kubernetes.
type kubernetesPod struct {
	*kubernetes.Pod
	logger   *slog.Logger
	tokens   *tokens.Verifier // nil: none are taken
	stopping atomic.Bool
	wake     chan struct{} // has a token when the role has changed
	cancel   context.CancelFunc
	loops    sync.WaitGroup
}

// inKubernetes finds out whether this is a pod of a StatefulSet; a list of peers
// says that it is not. Without access to the API a pod cannot found a cluster, and
// everything else works.
func (c *config) inKubernetes(logger *slog.Logger) *kubernetesPod {
	o := &kubernetesPod{Pod: c.kubernetes, logger: logger, wake: make(chan struct{}, 1)}
	if o.Pod != nil {
		return o
	}
	if c.peers != nil || os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return nil
	}
	var err error
	if o.Pod, err = kubernetes.InCluster(c.name, logger); err != nil {
		logger.Warn("the Kubernetes API cannot be asked, so this pod can neither found a cluster nor leave it; "+
			"let the pod mount its service account's token", slog.Any("error", err))
		return nil
	}
	return o
}

// api is nil outside Kubernetes.
func (o *kubernetesPod) api() *kubernetes.Pod {
	if o == nil {
		return nil
	}
	return o.Pod
}

// complete tells the node what Kubernetes knows.
func (o *kubernetesPod) complete(options *replication.Options) {
	if o == nil {
		return
	}
	options.Founding = func(ctx context.Context, member replication.MemberID, fresh bool, empty []string) (string, bool, error) {
		return o.Found(ctx, string(member), fresh, empty)
	}
	options.ExpectedOrdinals = func() (func(int) bool, bool) {
		ordinals, known := o.Ordinals()
		return ordinals.Cover, known
	}
	run := options.RunMaster
	options.RunMaster = func(ctx context.Context) {
		o.roleChanged()
		defer o.roleChanged()
		run(ctx)
	}
}

func (o *kubernetesPod) roleChanged() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// start begins what goes on until close.
func (o *kubernetesPod) start(node *node.Node, misplaced chan<- error) {
	if o == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	role := func() string {
		if o.stopping.Load() {
			return ""
		}
		return string(node.Status().Role)
	}
	o.loops.Go(func() { o.Run(ctx) })
	o.loops.Go(func() {
		keeper := place.Keeper{Pod: o.Pod, Node: node, Logger: o.logger}
		if err := keeper.Run(ctx); err != nil {
			misplaced <- err
		}
	})
	o.loops.Go(func() { o.KeepRole(ctx, role, o.wake) })
}

// stop removes the role label: from now on the pod has no role.
func (o *kubernetesPod) stop() {
	if o == nil {
		return
	}
	o.stopping.Store(true)
	o.roleChanged()
}

// close returns when everything has ended.
func (o *kubernetesPod) close() {
	if o == nil {
		return
	}
	if o.tokens != nil {
		o.tokens.Close()
	}
	if o.cancel == nil {
		return
	}
	o.cancel()
	o.loops.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), unlabelTimeout)
	defer cancel()
	if err := o.SetRole(ctx, ""); err != nil {
		o.logger.Debug("the role label stays until the next start", slog.Any("error", err))
	}
}

// departs asks whether this pod is to leave the cluster: it is if Kubernetes says,
// now, that it should not exist. No answer, a deleted StatefulSet and one that is
// scaled to zero mean only a stop.
func (o *kubernetesPod) departs(ctx context.Context, name string) bool {
	if o == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askOrdinals)
	defer cancel()
	ordinals, err := o.ReadOrdinals(ctx)
	if err != nil {
		o.logger.Info("this pod stops and stays a member: it could not find out whether it should exist", slog.Any("error", err))
		return false
	}
	if ordinals.Stopped != "" {
		o.logger.Info("a stop: "+ordinals.Stopped, slog.String("pod", name))
	}
	return !ordinals.Cover(replication.Ordinal(name))
}
