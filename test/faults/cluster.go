package faults

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/workload"
)

const podCount = 3

// Pod is a pod that is started again when it ends by itself, as Kubernetes would.
type Pod struct {
	*cluster.Pod
	Via string // The client port through the network.

	mu      sync.Mutex // Guards the fields below.
	wanted  bool       // It shall run.
	crashes int        // How often it ended by itself.
}

// Cluster is three pods and the network between them.
type Cluster struct {
	Pods    []*Pod
	Network *Network
	all     *cluster.Cluster
	log     func(format string, args ...any)

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// newCluster makes the pods' directories under dir and the network; nothing
// runs yet.
func newCluster(dir, binary string, log func(string, ...any)) (*Cluster, error) {
	all, err := cluster.New(dir, binary, podCount)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cluster{Network: newNetwork(), all: all, log: log, ctx: ctx, cancel: cancel}
	for _, p := range all.Pods {
		var peers []string
		for _, q := range all.Pods {
			address := q.Peer
			if p != q {
				// A proxy of its own for each pair: it knows who dials whom.
				if address, err = c.link(p.Name, q.Name, q.Peer); err != nil {
					return nil, err
				}
			}
			peers = append(peers, q.Name+"="+address)
		}
		p.Command = p.Serve(binary, "--peers", strings.Join(peers, ","))
		via, err := c.link(outside, p.Name, p.Client)
		if err != nil {
			return nil, err
		}
		c.Pods = append(c.Pods, &Pod{Pod: p, Via: via})
	}
	return c, nil
}

// link makes a way from one place to another, and returns where it begins.
func (c *Cluster) link(from, to, target string) (address string, err error) {
	listener, err := cluster.Listen()
	if err != nil {
		return "", err
	}
	c.Network.Link(from, to, target, listener)
	return listener.Addr().String(), nil
}

// Start starts a pod that does not run. It is started again when it ends by
// itself, as Kubernetes would do, until Kill or Stop.
func (c *Cluster) Start(p *Pod) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = true
	return c.launch(p)
}

// launch starts a pod's process; p.mu is held.
func (c *Cluster) launch(p *Pod) error {
	if p.Running() {
		return nil
	}
	if err := p.Pod.Start(); err != nil {
		return err
	}
	ended := p.Ended()
	c.tasks.Go(func() { c.supervise(p, ended) })
	return nil
}

// supervise starts a pod again that ended by itself.
func (c *Cluster) supervise(p *Pod, ended <-chan struct{}) {
	<-ended
	p.mu.Lock()
	crashed := p.wanted && p.Ended() == ended
	if crashed {
		p.crashes++
		c.log("%s ended by itself: %v", p.Name, p.State())
	}
	p.mu.Unlock()
	if !crashed || workload.Pause(c.ctx, 500*time.Millisecond) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted && p.Ended() == ended {
		if err := c.launch(p); err != nil {
			c.log("%v", err)
		}
	}
}

// unwanted are pods that end now, and are not to be started again.
func unwanted(pods []*Pod) (all []*cluster.Pod) {
	for _, p := range pods {
		p.mu.Lock()
		p.wanted = false
		p.mu.Unlock()
		all = append(all, p.Pod)
	}
	return all
}

// Crashes is how often the pod ended by itself.
func (p *Pod) Crashes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crashes
}

// Kill is kill -9 of some pods at one time.
func (c *Cluster) Kill(pods ...*Pod) { cluster.Kill(unwanted(pods)...) }

// Stop is SIGTERM; a pod that does not end is killed, and that is an error.
func (c *Cluster) Stop(p *Pod) error { return cluster.Stop(unwanted([]*Pod{p})...) }

// Close ends everything.
func (c *Cluster) Close() {
	c.cancel()
	c.Kill(c.Pods...)
	c.tasks.Wait()
	c.Network.Close()
	c.all.Close()
}

// Master is the pod that says so in the highest term, or nil.
func (c *Cluster) Master(ctx context.Context) *Pod {
	master := c.all.Master(ctx)
	for _, p := range c.Pods {
		if p.Pod == master {
			return p
		}
	}
	return nil
}

// WaitReady returns when all pods are ready, all are voters, and one is the
// master.
func (c *Cluster) WaitReady(ctx context.Context, limit time.Duration) error {
	return c.all.AwaitWhole(ctx, limit)
}
