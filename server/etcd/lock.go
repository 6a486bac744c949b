package etcd

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// errSessionExpired is what etcd tells a caller whose lease ended while it waited.
var errSessionExpired = errors.New("mutex: session is expired")

// lockService answers v3lockpb.Lock.
type lockService struct {
	v3lockpb.UnsafeLockServer
	queue *queue
}

// Waits implements server.Waiter.
func (s *lockService) Waits(method string) bool { return method == "Lock" }

// Lock returns when the caller's lease holds the lock.
func (s *lockService) Lock(ctx context.Context, req *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	place, err := s.queue.join(ctx, req.GetName(), req.GetLease(), nil)
	if err != nil {
		return nil, err
	}
	header := place.header
	if place.first != nil && place.first.GetCreateRevision() != place.revision {
		if header, err = s.queue.wait(ctx, place, errSessionExpired); err != nil {
			return nil, err
		}
	}
	return &v3lockpb.LockResponse{Header: header, Key: place.key}, nil
}

// Unlock deletes the key that Lock has answered with.
func (s *lockService) Unlock(ctx context.Context, req *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	response, err := s.queue.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: req.GetKey()})
	if err != nil {
		return nil, err
	}
	return &v3lockpb.UnlockResponse{Header: response.GetHeader()}, nil
}
