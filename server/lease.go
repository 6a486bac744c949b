package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

// leaseService answers baton.kv.v1.LeaseService, on the client port and, with
// keepAliveForwarder nil, for the followers on the peer port.
type leaseService struct {
	kvv1.UnsafeLeaseServiceServer
	core *core
	// keepAliveForwarder lets a follower ask the master; nil: the request has come
	// from a follower already, and is not passed on again.
	keepAliveForwarder *keepAliveForwarder
	// receivers is the group of the goroutines that receive on its port.
	receivers *sync.WaitGroup
	// leaseExpirer holds nil unless this pod is the master.
	leaseExpirer *atomic.Pointer[leaseExpirer]
	// leaseIDs are for the client port.
	leaseIDs *leaseIDs
}

func (s *leaseService) KeepAlive(both grpc.BidiStreamingServer[kvv1.KeepAliveRequest, kvv1.KeepAliveResponse]) error {
	p := streamWorkers[kvv1.KeepAliveRequest, kvv1.KeepAliveResponse]{both: both, limit: maxBatchesInFlight, receivers: s.receivers, answer: s.keepAlive}
	return p.run(both.Context())
}

func (s *leaseService) Grant(ctx context.Context, req *kvv1.GrantRequest) (*kvv1.GrantResponse, error) {
	if err := checkGrant(req); err != nil {
		return nil, err
	}
	if req.GetId() == 0 {
		// Choose it here: the command in the log must mean the same on every pod.
		req.Id = s.leaseIDs.next()
	}
	return s.core.grant(ctx, req)
}

func (s *leaseService) Revoke(ctx context.Context, req *kvv1.RevokeRequest) (*kvv1.RevokeResponse, error) {
	if err := checkLease(req.GetId()); err != nil {
		return nil, err
	}
	if err := checkRequestID(req.GetRequestId(), false); err != nil {
		return nil, err
	}
	return propose(ctx, s.core, &kvv1.Command{Command: &kvv1.Command_Revoke{Revoke: req}}, (*kvv1.Result).GetRevoke)
}

func (s *leaseService) ListLeases(ctx context.Context, _ *kvv1.ListLeasesRequest) (*kvv1.ListLeasesResponse, error) {
	st, err := s.core.prepareRead(ctx, &kvv1.ReadOptions{Consistency: kvv1.Consistency_CONSISTENCY_LOCAL})
	if err != nil {
		return nil, err
	}
	leases, _ := st.Leases()
	if err := s.core.mayReadLeases(ctx, st, leases); err != nil {
		return nil, err
	}
	return &kvv1.ListLeasesResponse{Header: s.core.header(st), Leases: leases}, nil
}

// keepAlive answers one message of a KeepAlive stream.
func (s *leaseService) keepAlive(ctx context.Context, req *kvv1.KeepAliveRequest) (*kvv1.KeepAliveResponse, error) {
	if err := s.core.slow(ctx, 1, 0); err != nil {
		return nil, err
	}
	return s.renew(ctx, req)
}

// renew is keepAlive without the rate of the caller's tenant.
func (s *leaseService) renew(ctx context.Context, req *kvv1.KeepAliveRequest) (*kvv1.KeepAliveResponse, error) {
	if err := checkLease(req.GetId()); err != nil {
		return nil, err
	}
	if err := s.core.mayKeepAlive(ctx, req.GetId()); err != nil {
		return nil, err
	}
	if l := s.leaseExpirer.Load(); l == nil && s.keepAliveForwarder != nil {
		return s.keepAliveForwarder.keepAlive(ctx, req.GetId())
	}
	st, l, err := s.lead(ctx)
	if err != nil {
		return nil, err
	}
	ttl := l.keepAlive(req.GetId())
	return &kvv1.KeepAliveResponse{Header: s.core.header(st), Id: req.GetId(), TtlSeconds: int64(ttl / time.Second)}, nil
}

// lead returns the leaseExpirer once the cluster has confirmed, during this call,
// that this pod is the master. Otherwise a master that does not know yet that it was
// replaced could promise time that the new one does not give.
func (s *leaseService) lead(ctx context.Context) (*store.Store, *leaseExpirer, error) {
	l := s.leaseExpirer.Load()
	if l == nil {
		return nil, nil, replication.ErrNoMaster
	}
	st, err := s.core.prepareRead(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	log, err := s.core.needLog()
	if err != nil {
		return nil, nil, err
	}
	if s.leaseExpirer.Load() != l || !log.IsMaster() {
		return nil, nil, replication.ErrNoMaster
	}
	return st, l, nil
}

func (s *leaseService) TimeToLive(ctx context.Context, req *kvv1.TimeToLiveRequest) (*kvv1.TimeToLiveResponse, error) {
	if err := checkLease(req.GetId()); err != nil {
		return nil, err
	}
	if l := s.leaseExpirer.Load(); l == nil && s.keepAliveForwarder != nil {
		return s.forwardTimeToLive(ctx, req)
	}
	st, l, err := s.lead(ctx)
	if err != nil {
		return nil, err
	}
	ttl, left, ok := l.remaining(req.GetId())
	if !ok {
		return nil, refusal.LeaseNotFound(req.GetId())
	}
	response := &kvv1.TimeToLiveResponse{
		Header:            s.core.header(st),
		Id:                req.GetId(),
		GrantedTtlSeconds: int64(ttl / time.Second),
		RemainingSeconds:  int64((left + time.Second - 1) / time.Second),
		RemainingMs:       left.Milliseconds(),
	}
	if req.GetKeys() {
		if response.Keys, err = leaseKeys(st, req.GetId()); err == nil {
			err = s.core.mayReadKeys(ctx, response.GetKeys())
		}
		if err != nil {
			return nil, err
		}
	}
	return response, nil
}

// forwardTimeToLive asks the master, which does not know who calls. So the keys of the
// answer are looked at here, by the rights that this pod has once it is as far as the
// master was.
func (s *leaseService) forwardTimeToLive(ctx context.Context, req *kvv1.TimeToLiveRequest) (*kvv1.TimeToLiveResponse, error) {
	response, err := s.keepAliveForwarder.timeToLive(ctx, req)
	if err != nil || !req.GetKeys() || !s.core.access().Enabled() {
		return response, err
	}
	if _, err := s.core.prepareRead(ctx, nil); err != nil {
		return nil, err
	}
	if err := s.core.mayReadKeys(ctx, response.GetKeys()); err != nil {
		return nil, err
	}
	return response, nil
}

func leaseKeys(st *store.Store, id int64) ([][]byte, error) {
	keys, err := st.LeaseKeys(id, maxLeaseKeys)
	if err != nil {
		return nil, err
	}
	size := 0
	for i, key := range keys {
		if size += len(key); size > maxLeaseKeyBytes {
			return keys[:i], nil
		}
	}
	return keys, nil
}

// fromMaster turns gRPC's "no connection" into the reason that clients know.
func fromMaster(err error) error {
	if s, ok := status.FromError(err); ok && s.Code() == codes.Unavailable && len(s.Details()) == 0 {
		return &refusal.Error{
			Reason:  kvv1.ErrorReason_ERROR_REASON_NO_MASTER,
			Message: "the master could not be asked: " + s.Message(),
		}
	}
	return err
}
