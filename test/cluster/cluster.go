package cluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Cluster is the pods that know each other.
type Cluster struct {
	Pods []*Pod
}

// New makes n pods of kvd with empty volumes under dir. Nothing runs yet. More
// flags go to each of them.
func New(dir, kvd string, n int, flags ...string) (*Cluster, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	c := &Cluster{}
	var peers []string
	for i := range n {
		p, err := NewPod(dir, fmt.Sprintf("kv-%d", i))
		if err != nil {
			return nil, err
		}
		c.Pods, peers = append(c.Pods, p), append(peers, p.Name+"="+p.Peer)
	}
	if err := Certify(dir, c.Pods...); err != nil {
		return nil, err
	}
	for _, p := range c.Pods {
		p.Command = p.Serve(kvd, append([]string{"--peers", strings.Join(peers, ",")}, flags...)...)
	}
	return c, nil
}

// Start starts the pods that do not run, and returns at once.
func (c *Cluster) Start() error {
	for _, p := range c.Pods {
		if err := p.Start(); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the pods and the connections to them. Their files stay.
func (c *Cluster) Close() {
	Kill(c.Pods...)
	for _, p := range c.Pods {
		p.Close()
	}
}

// Endpoints are the pods' client addresses.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, p := range c.Pods {
		all = append(all, p.Client)
	}
	return all
}

// Master is the pod that says so in the highest term; nil: none does.
func (c *Cluster) Master(ctx context.Context) *Pod {
	var master *Pod
	term := uint64(0)
	for _, p := range c.Pods {
		status, err := p.Status(ctx, true)
		if err != nil {
			continue
		}
		if own := status.GetPods()[0]; own.GetRole() == kvv1.PodStatus_ROLE_MASTER && own.GetTerm() >= term {
			master, term = p, own.GetTerm()
		}
	}
	return master
}

// poll is how often a state that somebody waits for is looked at.
const poll = 50 * time.Millisecond

// AwaitWhole returns when each pod is ready and sees all of them as voters, one
// of which is the master. If that takes longer than the limit, the error says what
// is missing and what the pods printed.
func (c *Cluster) AwaitWhole(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := c.whole(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not whole after %v: %w\n%s", limit, err, Last(c.Pods...))
		case <-time.After(poll):
		}
	}
}

func (c *Cluster) whole(ctx context.Context) error {
	for _, p := range c.Pods {
		if err := p.Ready(ctx); err != nil {
			return err
		}
		status, err := p.Status(ctx, false)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		roles := map[kvv1.PodStatus_Role]int{}
		for _, member := range status.GetPods() {
			if member.GetReady() {
				roles[member.GetRole()]++
			}
		}
		if len(status.GetPods()) != len(c.Pods) || roles[kvv1.PodStatus_ROLE_MASTER] != 1 ||
			roles[kvv1.PodStatus_ROLE_FOLLOWER] != len(c.Pods)-1 {
			return fmt.Errorf("%s sees %v", p.Name, status.GetPods())
		}
	}
	return nil
}
