package etcd

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/refusal"
	"github.com/batondb/baton/internal/sleep"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
)

const (
	// minTTL and maxTTL are etcd's, in seconds: it raises what is below minTTL and
	// refuses what is above maxTTL.
	minTTL = 2
	maxTTL = server.MaxTTLSeconds
	// maxKeepAlives is how many keep-alives of one stream may be on their way to the
	// master; no more are read meanwhile.
	maxKeepAlives = 64
	// keepAlivePatience is how long a stream waits for the next master before it ends:
	// longer than most elections take, and short enough that the client can try
	// another pod within the shortest lease.
	keepAlivePatience = 1500 * time.Millisecond
	// keepAliveRetry is how often it looks for the master meanwhile.
	keepAliveRetry = 50 * time.Millisecond
)

// leaseService answers etcdserverpb.Lease.
type leaseService struct {
	pb.UnsafeLeaseServer
	pod *pod
}

func (s *leaseService) LeaseGrant(ctx context.Context, req *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	switch {
	case req.GetTTL() > maxTTL:
		return nil, rpctypes.ErrGRPCLeaseTTLTooLarge
	case req.GetID() < 0:
		return nil, status.Error(codes.InvalidArgument, "etcdserver: lease IDs are positive")
	}
	grant := &kvv1.GrantRequest{Id: req.GetID(), TtlSeconds: max(req.GetTTL(), minTTL)}
	if grant.Id == 0 {
		grant.Id = s.pod.NewLeaseID()
	}
	granted, err := s.pod.Grant(ctx, grant)
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	return &pb.LeaseGrantResponse{
		Header: s.pod.header(granted.GetHeader().GetRevision()), ID: granted.GetId(), TTL: granted.GetTtlSeconds(),
	}, nil
}

func (s *leaseService) LeaseRevoke(ctx context.Context, req *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if req.GetID() <= 0 {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	command := &kvv1.Command{Command: &kvv1.Command_Revoke{Revoke: &kvv1.RevokeRequest{Id: req.GetID()}}}
	revoked, err := server.Propose(ctx, s.pod.Backend, command, (*kvv1.Result).GetRevoke)
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	return &pb.LeaseRevokeResponse{Header: s.pod.header(revoked.GetHeader().GetRevision())}, nil
}

// LeaseTimeToLive answers with a time of -1 for a lease that does not exist, and
// in whole seconds that are certainly left, as etcd does.
func (s *leaseService) LeaseTimeToLive(ctx context.Context, req *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	st, err := s.pod.local(ctx)
	if err != nil {
		return nil, err
	}
	none := &pb.LeaseTimeToLiveResponse{Header: s.pod.header(st.Revision()), ID: req.GetID(), TTL: -1}
	if req.GetID() <= 0 {
		return none, nil
	}
	lease, err := s.pod.TimeToLive(ctx, &kvv1.TimeToLiveRequest{Id: req.GetID(), Keys: req.GetKeys()})
	if err != nil {
		if refusal.Reason(err) == kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND || status.Code(err) == codes.NotFound {
			return none, nil
		}
		return nil, s.pod.fail(ctx, err)
	}
	return &pb.LeaseTimeToLiveResponse{
		Header: s.pod.header(lease.GetHeader().GetRevision()), ID: lease.GetId(),
		TTL: lease.GetRemainingMs() / 1000, GrantedTTL: lease.GetGrantedTtlSeconds(), Keys: lease.GetKeys(),
	}, nil
}

func (s *leaseService) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	st, err := s.pod.Read(ctx, nil)
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	response := &pb.LeaseLeasesResponse{Header: s.pod.header(st.Revision())}
	leases, _ := st.Leases()
	if err := s.pod.MayReadLeases(ctx, st, leases); err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	for _, lease := range leases {
		response.Leases = append(response.Leases, &pb.LeaseStatus{ID: lease.GetId()})
	}
	return response, nil
}

// keepAliveStream answers many messages at a time, in any order.
type keepAliveStream struct {
	pod   *pod
	both  pb.Lease_LeaseKeepAliveServer
	end   context.CancelCauseFunc
	slots chan struct{}
	all   sync.WaitGroup

	sending sync.Mutex // One Send at a time.
}

func (s *leaseService) LeaseKeepAlive(both pb.Lease_LeaseKeepAliveServer) error {
	ctx, end := context.WithCancelCause(both.Context())
	defer end(nil)
	stream := &keepAliveStream{pod: s.pod, both: both, end: end, slots: make(chan struct{}, maxKeepAlives)}
	requests := make(chan *pb.LeaseKeepAliveRequest)
	s.pod.Go(func() { receive(ctx, both.Recv, requests, end) })
	stream.run(ctx, requests)
	stream.all.Wait()
	return s.pod.fail(ctx, context.Cause(ctx))
}

// run returns when the client has no more to say, or when ctx ends.
func (s *keepAliveStream) run(ctx context.Context, requests <-chan *pb.LeaseKeepAliveRequest) {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		select {
		case req, more := <-requests:
			if !more {
				return
			}
			s.all.Go(func() {
				if err := s.answer(ctx, req.GetID()); err != nil {
					s.end(err)
				}
				<-s.slots
			})
		case <-ctx.Done():
			return
		}
	}
}

// answer renews a lease and sends its time to live, 0 if it does not exist. The
// revision is read before the renewal: a lease that has ended at some revision must
// never be seen alive at a later one.
func (s *keepAliveStream) answer(ctx context.Context, lease int64) error {
	if err := s.pod.BeginLater(ctx); err != nil { // Once, and for longer than there is patience with the master.
		return err
	}
	st, err := s.pod.Read(ctx, local)
	if err != nil {
		return err
	}
	response := &pb.LeaseKeepAliveResponse{Header: s.pod.header(st.Revision()), ID: lease}
	if lease > 0 {
		if response.TTL, err = s.renew(ctx, lease); err != nil {
			return err
		}
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.both.Send(response)
}

// renew waits for the next master while there is none. Repeating is safe.
func (s *keepAliveStream) renew(ctx context.Context, lease int64) (ttl int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, keepAlivePatience)
	defer cancel()
	for {
		ttl, err = s.pod.KeepAlive(ctx, lease)
		if err == nil || refusal.Code(err) != codes.Unavailable && status.Code(err) != codes.Unavailable {
			return ttl, err
		}
		if !sleep.For(ctx, keepAliveRetry) {
			return 0, err
		}
	}
}
