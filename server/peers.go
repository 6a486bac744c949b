package server

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
)

// peerStatuses is what every other member last said of itself: where clients
// reach it, and whether its volume is nearly full.
type peerStatuses struct {
	mu   sync.Mutex                 // guards last
	last map[string]*kvv1.PodStatus // By pod; nobody who did not answer the last time.
	// addresses outlive a missing answer: they are only hints.
	addresses map[string]string
}

func newPeerStatuses() *peerStatuses {
	return &peerStatuses{last: map[string]*kvv1.PodStatus{}, addresses: map[string]string{}}
}

func (n *peerStatuses) clientAddress(pod string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addresses[pod]
}

// alarmed returns the pods of which the last answer had this alarm.
func (n *peerStatuses) alarmed(alarm string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var pods []string
	for pod, s := range n.last {
		for _, a := range s.GetAlarms() {
			if a == alarm {
				pods = append(pods, pod)
			}
		}
	}
	return pods
}

func (n *peerStatuses) note(answers map[string]*kvv1.PodStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = answers
	for pod, s := range answers {
		if s.GetClientAddress() != "" {
			n.addresses[pod] = s.GetClientAddress()
		}
	}
}

// watchPeers asks everybody until ctx ends.
func (c *core) watchPeers(ctx context.Context) {
	tick := time.NewTicker(peerInterval)
	defer tick.Stop()
	for {
		if log, err := c.needLog(); err == nil {
			answers := map[string]*kvv1.PodStatus{}
			for _, a := range askAll(ctx, log, c.others(log)) {
				if a.err == nil {
					answers[a.member.Pod] = a.status
				}
			}
			c.peerStatuses.note(answers)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// others are the members that are not this one. A pod's older incarnation is
// not asked: it has the same name, and the newer one would answer.
func (c *core) others(log Log) []replication.Member {
	var others []replication.Member
	for _, m := range log.Members() {
		if m.Pod != c.options.Name {
			others = append(others, m)
		}
	}
	return others
}

// answer is what one member said of itself.
type answer struct {
	member replication.Member
	status *kvv1.PodStatus
	err    error
}

// askAll asks members at once, each with a short patience.
func askAll(ctx context.Context, log Log, members []replication.Member) []answer {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	answers := make([]answer, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() { answers[i] = ask(ctx, log, m) })
	}
	all.Wait()
	return answers
}

func ask(ctx context.Context, log Log, m replication.Member) answer {
	conn, err := log.PeerConn(m.Pod)
	if err != nil {
		return answer{member: m, err: err}
	}
	response, err := peerv1.NewPeerServiceClient(conn).PodStatus(ctx, &peerv1.PodStatusRequest{})
	return answer{member: m, status: response.GetStatus(), err: err}
}

// dialing is what gRPC writes before the error of a connection.
const dialing = "Error while dialing: "

// whyUnreachable is a sentence for a person.
func whyUnreachable(err error) string {
	text := status.Convert(err).Message()
	if _, cause, ok := strings.Cut(text, dialing); ok {
		text = strings.TrimSuffix(cause, `"`)
	}
	return "does not answer: " + text
}
