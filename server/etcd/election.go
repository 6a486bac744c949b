package etcd

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// What etcd says of elections.
var (
	errNotLeader        = errors.New("election: not leader")
	errNoElected        = errors.New("election: no leader")
	errMissingLeaderKey = errors.New(`"leader" field must be provided`)
)

// electionService answers v3electionpb.Election.
type electionService struct {
	v3electionpb.UnsafeElectionServer
	queue *queue
}

// Waits implements server.Waiter.
func (s *electionService) Waits(method string) bool { return method == "Campaign" }

// Campaign returns when the caller's lease leads.
func (s *electionService) Campaign(ctx context.Context, req *v3electionpb.CampaignRequest) (*v3electionpb.CampaignResponse, error) {
	place, err := s.queue.join(ctx, req.GetName(), req.GetLease(), req.GetValue())
	if err != nil {
		return nil, err
	}
	if _, err := s.queue.wait(ctx, place, errNotLeader); err != nil {
		return nil, err
	}
	return &v3electionpb.CampaignResponse{Header: place.header, Leader: &v3electionpb.LeaderKey{
		Name: req.GetName(), Key: place.key, Rev: place.revision, Lease: place.lease,
	}}, nil
}

// Proclaim gives the leader another value.
func (s *electionService) Proclaim(ctx context.Context, req *v3electionpb.ProclaimRequest) (*v3electionpb.ProclaimResponse, error) {
	if req.GetLeader() == nil {
		return nil, errMissingLeaderKey
	}
	header, err := s.proclaim(ctx, placeOf(req.GetLeader()), req.GetValue())
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ProclaimResponse{Header: header}, nil
}

func (s *electionService) proclaim(ctx context.Context, p *place, value []byte) (*pb.ResponseHeader, error) {
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	response, err := s.queue.kv.Txn(ctx, &pb.TxnRequest{
		Compare: createdAt(p.key, p.revision),
		Success: []*pb.RequestOp{put(p.key, value, p.lease)},
	})
	if err == nil && !response.GetSucceeded() {
		err = errNotLeader
	}
	return response.GetHeader(), err
}

// Resign ends the leader's time; the next in the queue leads.
func (s *electionService) Resign(ctx context.Context, req *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
	if req.GetLeader() == nil {
		return nil, errMissingLeaderKey
	}
	header, err := s.queue.leave(ctx, placeOf(req.GetLeader()))
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ResignResponse{Header: header}, nil
}

func placeOf(leader *v3electionpb.LeaderKey) *place {
	return &place{key: leader.GetKey(), revision: leader.GetRev(), lease: leader.GetLease()}
}

// Leader says who leads.
func (s *electionService) Leader(ctx context.Context, req *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
	response, err := s.queue.kv.Range(ctx, oldest(req.GetName()))
	switch {
	case err != nil:
		return nil, err
	case len(response.GetKvs()) == 0:
		return nil, errNoElected
	}
	return &v3electionpb.LeaderResponse{Header: response.GetHeader(), Kv: response.GetKvs()[0]}, nil
}

// Observe sends who leads, and again whenever the leader or its value changes; it
// may skip what lasted only a moment.
func (s *electionService) Observe(req *v3electionpb.LeaderRequest, out v3electionpb.Election_ObserveServer) error {
	ctx := out.Context()
	for {
		now, err := s.queue.get(ctx, oldest(req.GetName()))
		if err != nil {
			return err
		}
		revision := now.GetHeader().GetRevision()
		if len(now.GetKvs()) == 0 {
			all := oldest(req.GetName())
			err = s.awaitPut(ctx, all.GetKey(), all.GetRangeEnd(), revision)
		} else if err = out.Send(&v3electionpb.LeaderResponse{Header: now.GetHeader(), Kv: now.GetKvs()[0]}); err == nil {
			err = s.observe(ctx, now.GetKvs()[0].GetKey(), revision, out)
		}
		if err != nil {
			return err
		}
	}
}

// awaitPut returns when a range that was empty at a revision may have a key.
func (s *electionService) awaitPut(ctx context.Context, from, to []byte, revision int64) error {
	return s.queue.follow(ctx, &kvv1.WatchRequest{
		Key: from, RangeEnd: to, StartRevision: revision + 1, Exclude: []kvv1.Event_Type{kvv1.Event_TYPE_DELETE},
	}, func(*kvv1.WatchResponse) (bool, error) { return true, nil })
}

// observe sends the leader's values until its key is deleted.
func (s *electionService) observe(ctx context.Context, key []byte, revision int64, out v3electionpb.Election_ObserveServer) error {
	changes := &kvv1.WatchRequest{Key: key, StartRevision: revision + 1}
	return s.queue.follow(ctx, changes, func(response *kvv1.WatchResponse) (bool, error) {
		for _, change := range response.GetEvents() {
			if change.GetType() == kvv1.Event_TYPE_DELETE {
				return true, nil
			}
			header := s.queue.pod.header(change.GetKv().GetModRevision())
			if err := out.Send(&v3electionpb.LeaderResponse{Header: header, Kv: keyValue(change.GetKv())}); err != nil {
				return false, err
			}
		}
		return false, nil
	})
}
