package etcd

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/server"
)

// clusterService answers etcdserverpb.Cluster. Members are pods, and the
// StatefulSet alone says which there are.
type clusterService struct {
	pb.UnsafeClusterServer
	pod *pod
}

var (
	errMemberAdd = ours(codes.FailedPrecondition,
		"members are pods, and join by themselves: scale the StatefulSet up to add one")
	errMemberRemove = ours(codes.FailedPrecondition,
		"members are pods, and leave by themselves: scale the StatefulSet down to remove the last one; "+
			"to replace one, delete its volume and its pod")
	errMemberUpdate = ours(codes.FailedPrecondition,
		"a pod is found by its name, wherever it is: there is no URL to update")
	errMemberPromote = ours(codes.FailedPrecondition,
		"the learner votes by itself once it has caught up: there is nothing to do")
)

func (s *clusterService) MemberList(ctx context.Context, req *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if req.GetLinearizable() {
		if _, err := s.pod.Read(ctx, nil); err != nil {
			return nil, s.pod.fail(ctx, err)
		}
	}
	log, err := s.pod.Log()
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	members, err := s.members(ctx, log)
	return &pb.MemberListResponse{Header: s.pod.header(0), Members: members}, s.pod.fail(ctx, err)
}

// members lists the members, with a client URL for each pod that this one has heard
// of; etcd's clients call a member without one "unstarted".
func (s *clusterService) members(ctx context.Context, log server.Log) ([]*pb.Member, error) {
	var members []*pb.Member
	unheard := false
	for _, m := range log.Members() {
		address := s.pod.ClientAddress(m.Pod)
		unheard = unheard || address == ""
		members = append(members, &pb.Member{
			ID: number(string(m.ID)), Name: m.Pod, IsLearner: !m.Voter,
			PeerURLs: urls(m.Address), ClientURLs: urls(address),
		})
	}
	if !unheard {
		return members, nil
	}
	// This pod has just started: ask the others.
	now, err := s.pod.Backend.Status(ctx, false)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		for _, pod := range now.GetPods() {
			if pod.GetName() == m.GetName() && len(m.GetClientURLs()) == 0 {
				m.ClientURLs = urls(pod.GetClientAddress())
			}
		}
	}
	return members, nil
}

func urls(address string) []string {
	if address == "" {
		return nil
	}
	return []string{"http://" + address}
}

func (s *clusterService) MemberAdd(context.Context, *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	return nil, errMemberAdd
}

func (s *clusterService) MemberRemove(ctx context.Context, req *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	_, err := s.member(ctx, req.GetID())
	if err == nil {
		err = errMemberRemove
	}
	return nil, err
}

func (s *clusterService) MemberUpdate(ctx context.Context, req *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	_, err := s.member(ctx, req.GetID())
	if err == nil {
		err = errMemberUpdate
	}
	return nil, err
}

func (s *clusterService) MemberPromote(ctx context.Context, req *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	m, err := s.member(ctx, req.GetID())
	switch {
	case err != nil:
	case m.Voter:
		err = rpctypes.ErrGRPCMemberNotLearner
	default:
		err = errMemberPromote
	}
	return nil, err
}

func (s *clusterService) member(ctx context.Context, id uint64) (replication.Member, error) {
	log, err := s.pod.Log()
	if err != nil {
		return replication.Member{}, s.pod.fail(ctx, err)
	}
	members := log.Members()
	i := slices.IndexFunc(members, func(m replication.Member) bool { return number(string(m.ID)) == id })
	if i < 0 {
		return replication.Member{}, rpctypes.ErrGRPCMemberNotFound
	}
	return members[i], nil
}

// leader returns the leader's id, 0 if there is none. An older incarnation of its pod
// may still be a member, but only one incarnation of a pod has a vote.
func leader(log server.Log) uint64 {
	master, ok := log.Master()
	for _, m := range log.Members() {
		if ok && m.Voter && m.Pod == master {
			return number(string(m.ID))
		}
	}
	return 0
}
