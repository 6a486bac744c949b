package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/seldom"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/peer"
)

// need is what a method of the peer port asks of its caller, who is a pod of the same
// StatefulSet, or in the list of peers, for any.
type need struct {
	// cluster: the caller belongs to this pod's cluster already. Who has no data yet
	// does not, and has to find out, to clone and to join.
	cluster bool
	// own is what must be the caller's own of a request; nil: nothing is.
	own func(req any, caller replication.MemberID) bool
	// most is how many calls of one pod may be under way. More than one stream: an
	// earlier connection may not be known to be cut yet.
	most int
}

const (
	// mostCalls of a kind that a pod makes one at a time, or for a person.
	mostCalls = 256
	// mostForwarded are those that it makes for its clients, each of whom waits.
	mostForwarded = 4096
	// callTimeout bounds a call that is no stream: longer than any pod waits.
	callTimeout = 30 * time.Second
)

// needs are the methods of the peer port. Any other is denied: a test has the list of
// those that there are.
var needs = map[string]need{
	peerv1.PeerService_Inspect_FullMethodName:   {most: mostCalls},
	peerv1.PeerService_PodStatus_FullMethodName: {most: mostCalls},
	peerv1.PeerService_Clone_FullMethodName:     {most: 4},
	peerv1.PeerService_KeepLog_FullMethodName:   {most: mostCalls, own: ownMember},
	peerv1.PeerService_Join_FullMethodName:      {most: mostCalls, own: ownMember, cluster: true},
	peerv1.PeerService_Leave_FullMethodName:     {most: mostCalls, own: ownMember, cluster: true},
	peerv1.PeerService_Compare_FullMethodName:   {most: mostCalls, own: ownPod, cluster: true},
	// ComparePart reads the disk. One at a time is asked, and one by who is in doubt.
	peerv1.PeerService_ComparePart_FullMethodName: {most: 4, own: ownPod, cluster: true},
	peerv1.PeerService_Forward_FullMethodName:     {most: 64, cluster: true},
	peerv1.PeerService_ReadIndex_FullMethodName:   {most: mostCalls, cluster: true},
	peerv1.PeerService_HandOver_FullMethodName:    {most: mostCalls, cluster: true},
	// What followers ask for their clients.
	kvv1.LeaseService_KeepAlive_FullMethodName:  {most: 64, cluster: true},
	kvv1.LeaseService_TimeToLive_FullMethodName: {most: mostForwarded, cluster: true},
}

func ownMember(req any, caller replication.MemberID) bool {
	r, ok := req.(interface{ GetMemberId() string })
	return ok && r.GetMemberId() == string(caller)
}

func ownPod(req any, caller replication.MemberID) bool {
	r, ok := req.(interface{ GetPod() string })
	return ok && r.GetPod() == caller.Pod()
}

// denials says now and then that there are some, and counts what may not be too many.
type denials struct {
	said seldom.Events

	mu   sync.Mutex     // guards open
	open map[string]int // calls under way, by pod and method
}

// enter counts one call of most, until leave is called.
func (d *denials) enter(of string, most int) (leave func(), ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[of] >= most {
		return nil, false
	}
	if d.open == nil {
		d.open = map[string]int{}
	}
	d.open[of]++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.open[of]--; d.open[of] == 0 {
			delete(d.open, of)
		}
	}, true
}

// allow says why a call is denied; nil: it is not. req is nil of a stream.
func (n *Node) allow(ctx context.Context, method string, req any) error {
	needs, listed := needs[method]
	caller, known := peer.CallerOf(ctx)
	var because string
	switch {
	case !listed:
		because = "it is no call between pods"
	case !known || !n.related(caller.Member.Pod()):
		because = "it is no pod of this cluster"
	case needs.cluster && !caller.SameCluster:
		because = "it is no member of this cluster"
	case needs.own != nil && !needs.own(req, caller.Member):
		because = "it is only for the caller itself"
	default:
		return nil
	}
	if _, due := n.denials.said.Due(""); due {
		n.logger.Warn("a call of another pod was denied", "method", method, "from", string(caller.Member), "because", because)
	}
	return status.Errorf(codes.PermissionDenied, "%s of %s is denied: %s", method, caller.Member, because)
}

// related says whether a pod may be one of this cluster, by its name.
func (n *Node) related(pod string) bool {
	return slices.Contains(n.opts.Peers, pod) || replication.SetOf(pod) == replication.SetOf(n.opts.Name)
}

// admit counts a call that is allowed, until leave is called.
func (n *Node) admit(ctx context.Context, method string, req any) (leave func(), err error) {
	if err := n.allow(ctx, method, req); err != nil {
		return nil, err
	}
	caller, _ := peer.CallerOf(ctx)
	pod := caller.Member.Pod()
	leave, ok := n.denials.enter(pod+" "+method, needs[method].most)
	if !ok {
		return nil, status.Errorf(codes.ResourceExhausted, "%s has as many calls of %s under way as it can", pod, method)
	}
	return leave, nil
}

// guards ask admit before each call, and before each stream.
func (n *Node) guards() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			leave, err := n.admit(ctx, info.FullMethod, req)
			if err != nil {
				return nil, err
			}
			defer leave()
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			return handle(ctx, req)
		}),
		grpc.StreamInterceptor(func(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			leave, err := n.admit(stream.Context(), info.FullMethod, nil)
			if err != nil {
				return err
			}
			defer leave()
			return handle(service, stream)
		}),
	}
}
