package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
)

const (
	// inspectTimeout bounds one question to one pod.
	inspectTimeout = time.Second
	// lookBelow and lookAbove bound, without a list of peers, which ordinals
	// beside this pod's are asked, as long as it is not known which should exist.
	lookBelow = 16
	lookAbove = 4
	// lookFar bounds it where that is known.
	lookFar = 128
)

// candidatePods are the other pods that may exist, in the order in which a clone asks
// them.
func (n *Node) candidatePods() []string {
	var pods []string
	switch {
	case len(n.opts.Peers) > 0:
		pods = slices.Clone(n.opts.Peers)
	default:
		low, high := n.ordinalsAround(replication.Ordinal(n.opts.Name))
		for o := low; o <= high; o++ {
			pods = append(pods, n.sibling(o))
		}
	}
	if e := n.engine.Load(); e != nil {
		for _, s := range e.replica.Membership.Load().Configuration.Servers {
			pods = append(pods, replication.MemberID(s.ID).Pod())
		}
	}
	return policy.NearestBelow(n.opts.Name, pods)
}

// sibling is the pod of this one's set that has an ordinal.
func (n *Node) sibling(ordinal int) string {
	return fmt.Sprintf("%s-%d", replication.SetOf(n.opts.Name), ordinal)
}

// ordinalsAround are the ordinals that may exist around one, as far as they are
// worth a question.
func (n *Node) ordinalsAround(own int) (low, high int) {
	low, high = max(0, own-lookBelow), own+lookAbove
	if wanted := n.wanted(); wanted != nil {
		for low > max(0, own-lookFar) && wanted(low-1) {
			low--
		}
		for high < own+lookFar && wanted(high+1) {
			high++
		}
	}
	return low, high
}

// inspect asks pods what they have, and so also the pod that one of them takes
// for the master. Pods that do not answer are missing from the result.
func (n *Node) inspect(ctx context.Context, pods []string) map[string]*peerv1.InspectResponse {
	seen := n.inspectThese(ctx, pods)
	var masters []string
	for _, s := range seen {
		if m := s.MasterPod; m != "" && m != n.opts.Name && seen[m] == nil && !slices.Contains(pods, m) && !slices.Contains(masters, m) {
			masters = append(masters, m)
		}
	}
	if len(masters) > 0 {
		maps.Copy(seen, n.inspectThese(ctx, masters))
	}
	return seen
}

func (n *Node) inspectThese(ctx context.Context, pods []string) map[string]*peerv1.InspectResponse {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	return ofEach(pods, func(pod string) (*peerv1.InspectResponse, bool) {
		answer, err := inspectOne(ctx, n.calls.Conn, pod)
		if err != nil {
			n.logger.Debug("a pod does not answer", "pod", pod, "error", err)
		}
		return answer, err == nil
	})
}

func inspectOne(ctx context.Context, conn func(pod string) (*grpc.ClientConn, error), pod string) (*peerv1.InspectResponse, error) {
	c, err := conn(pod)
	if err != nil {
		return nil, err
	}
	return peerv1.NewPeerServiceClient(c).Inspect(ctx, &peerv1.InspectRequest{})
}

// ofEach asks something of all pods at one time, and returns what was answered.
func ofEach[V any](pods []string, ask func(pod string) (V, bool)) map[string]V {
	answers := map[string]V{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, pod := range pods {
		wg.Go(func() {
			if answer, ok := ask(pod); ok {
				mu.Lock()
				defer mu.Unlock()
				answers[pod] = answer
			}
		})
	}
	wg.Wait()
	return answers
}

// seen are the answers of all other pods that may exist.
func (n *Node) seen(ctx context.Context) policy.Seen {
	return seenAs(n.inspect(ctx, n.candidatePods()))
}

// absent says that a pod does not exist, because its name does not. Any other
// failure to resolve it proves nothing.
func (n *Node) absent(pod string) bool {
	var missing *net.DNSError
	_, err := n.opts.Resolver(pod)
	return errors.As(err, &missing) && missing.IsNotFound
}

// absentAmong returns the pods that do not exist.
func (n *Node) absentAmong(pods []string) map[string]bool {
	return ofEach(pods, func(pod string) (absent, known bool) { return true, n.absent(pod) })
}

// wanted says which ordinals should exist; nil: that is not known.
func (n *Node) wanted() policy.Wanted {
	if n.opts.ExpectedOrdinals == nil {
		return nil
	}
	if covers, known := n.opts.ExpectedOrdinals(); known {
		return covers
	}
	return nil
}

// AwaitsNext says that a pod above this one should exist and does not: with an
// order of pods, it is only created once this one is ready. A pod that cannot serve,
// and waits for all others to answer, is ready all the same, or it waits for ever.
func (n *Node) AwaitsNext() bool {
	own := replication.Ordinal(n.opts.Name)
	wanted := n.wanted()
	if wanted == nil { // Then the members should.
		return slices.ContainsFunc(n.Members(), func(m replication.Member) bool { return m.Ordinal > own && n.absent(m.Pod) })
	}
	for o := own + 1; wanted(o); o++ {
		if n.absent(n.sibling(o)) {
			return true
		}
	}
	return false
}

const (
	// nameAfter is how long a pod's name may be missing before a person is told:
	// right after a start that is normal.
	nameAfter = 10 * time.Second
	// callerFresh is how long a pod that asked this one counts as running.
	callerFresh = 5 * time.Second
)

// nameWatch looks whether a pod that runs can be found by its name.
type nameWatch struct{ missing, said time.Time }

func (w *nameWatch) look(n *Node, pod string) {
	_, err := n.opts.Resolver(pod)
	switch {
	case err == nil:
		*w = nameWatch{}
	case w.missing.IsZero():
		w.missing = time.Now()
	case time.Since(w.missing) > nameAfter && time.Since(w.said) > nameAfter:
		w.said = time.Now()
		n.logger.Warn("a pod runs, and its name does not resolve, so others do not find it; in Kubernetes the governing Service needs publishNotReadyAddresses: true",
			"pod", pod, "error", err)
	}
}

// callers remembers which pods asked this one, and when.
type callers struct {
	mu   sync.Mutex // guards last
	last map[string]time.Time
}

func (c *callers) note(pod string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[pod] = time.Now()
}

// recent are the pods that ask this one now.
func (c *callers) recent() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var pods []string
	for pod, at := range c.last {
		if time.Since(at) < callerFresh {
			pods = append(pods, pod)
		} else {
			delete(c.last, pod)
		}
	}
	return pods
}
