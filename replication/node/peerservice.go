package node

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/clone"
	"github.com/batondb/baton/replication/internal/policy"
	"github.com/batondb/baton/replication/internal/propose"
	"github.com/batondb/baton/replication/internal/raftio"
	"github.com/batondb/baton/replication/internal/volume"
)

// peerService answers the other pods.
type peerService struct {
	peerv1.UnimplementedPeerServiceServer
	node     *Node
	callers  callers
	forwards propose.OpenStreams // of commands from followers
}

var errNotMaster = status.Error(codes.Unavailable, "this pod is not the master")

// master is the engine, if this pod is the master.
func (s *peerService) master() (*engine, error) {
	e := s.node.engine.Load()
	if e == nil || !e.replica.Views.Load().Ready {
		return nil, errNotMaster
	}
	return e, nil
}

func (s *peerService) Inspect(context.Context, *peerv1.InspectRequest) (*peerv1.InspectResponse, error) {
	id, condemned := s.node.volume.Identity(), s.node.condemned() != ""
	answer := &peerv1.InspectResponse{
		ClusterId: id.ClusterID, MemberId: id.MemberID,
		Empty:   id.Stage == volume.Empty && id.ClusterID == "",
		HasData: id.Stage != volume.Empty, ReplacesClusterId: id.Replaces,
		Stopping: s.node.fate.stopping.Load() || condemned, Condemned: condemned,
	}
	e := s.node.engine.Load()
	if e == nil {
		answer.Cold = s.node.arrivingStatus().Cold
		return answer, nil
	}
	answer.Cold = e.cold.Load() || condemned && s.node.AwaitsNext()
	v := e.replica.Views.Load()
	_, member := members(e.replica.Membership.Load().Configuration).Find(e.self)
	answer.MasterPod = v.Master.Pod()
	answer.Master, answer.Cloneable = v.Ready, member && e.caught.Load() && !condemned
	answer.Term = e.replica.Raft.CurrentTerm()
	last := lastEntry(e.replica)
	answer.LastIndex, answer.LastLogTerm = last.Index, last.Term
	if s.node.opts.PodStatus != nil {
		answer.Revision = s.node.PodStatus(context.Background()).Revision
	}
	return answer, nil
}

// Forward is the master's end of a forwarder's stream.
func (s *peerService) Forward(stream grpc.BidiStreamingServer[peerv1.ForwardRequest, peerv1.ForwardResponse]) error {
	defer s.forwards.Add()()
	return propose.ServeForwards(stream, func(p *propose.Pending, c *kvv1.Command) error {
		e := s.node.engine.Load()
		if e == nil {
			return replication.ErrNotReady
		}
		return e.router.Accept(p, c)
	})
}

func (s *peerService) ReadIndex(ctx context.Context, _ *peerv1.ReadIndexRequest) (*peerv1.ReadIndexResponse, error) {
	e, err := s.master()
	if err != nil {
		return nil, err
	}
	// Before the index is got: what was applied here is committed, so whoever has
	// applied the index has applied this. Whatever this master has acknowledged by
	// now is in it, for a write is answered when it is applied.
	applied := e.replica.Trail.Last()
	index, err := e.reader.Confirm(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &peerv1.ReadIndexResponse{Index: index, Applied: raftio.MarkProto(applied)}, nil
}

func (s *peerService) Compare(ctx context.Context, req *peerv1.CompareRequest) (*peerv1.CompareResponse, error) {
	e := s.node.engine.Load()
	if e == nil {
		return nil, status.Error(codes.Unavailable, "this pod has no database yet")
	}
	theirs := raftio.MarkOf(req.GetOwn())
	if err := e.replica.Applied.Wait(ctx, theirs.Index); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	if err := e.reader.Agree(req.GetPod(), theirs); err != nil {
		e.logger.Debug("asked by a pod that differs", "error", err)
	}
	return &peerv1.CompareResponse{Mark: raftio.MarkProto(e.replica.Trail.At(theirs.Index))}, nil
}

func (s *peerService) Join(ctx context.Context, req *peerv1.JoinRequest) (*peerv1.JoinResponse, error) {
	e, err := s.master()
	if err != nil {
		return nil, err
	}
	id := replication.MemberID(req.MemberId)
	if !id.Valid() || req.Address != req.MemberId {
		return nil, status.Errorf(codes.InvalidArgument, "%q at %q is not a member id", req.MemberId, req.Address)
	}
	s.callers.note(id.Pod())
	asks := policy.Admission{
		Member: id, Returning: req.Returning, Removed: e.changer.hasRemoved(id),
		Committed: members(e.replica.Membership.Load().Configuration), Latest: members(e.replica.Configuration()),
	}
	switch asks.Answer() {
	case policy.WasRemoved:
		if err := stillLeads(ctx, e); err != nil {
			return nil, err
		}
		return &peerv1.JoinResponse{Removed: true}, nil
	case policy.IsVoter:
		return &peerv1.JoinResponse{}, nil
	}
	e.replica.Storage.Log.Hold(req.MemberId, 0, clone.KeepLogFor)
	e.changer.join(id, req.Index, e.replica.Raft.CommitIndex())
	return &peerv1.JoinResponse{}, nil
}

func (s *peerService) Leave(ctx context.Context, req *peerv1.LeaveRequest) (*peerv1.LeaveResponse, error) {
	e, err := s.master()
	if err != nil {
		return nil, err
	}
	id := replication.MemberID(req.MemberId)
	if !id.Valid() {
		return nil, status.Errorf(codes.InvalidArgument, "%q is not a member id", req.MemberId)
	}
	if id == e.self {
		return nil, status.Error(codes.FailedPrecondition, "the master must hand the baton over before it leaves")
	}
	for {
		changed, v := e.replica.Membership.Load().Changed, e.replica.Views.Load()
		e.changer.leave(id, req.Reclone)
		if e.changer.without(id, req.Reclone) {
			if err := stillLeads(ctx, e); err != nil {
				return nil, err
			}
			return &peerv1.LeaveResponse{}, nil
		}
		if !v.Ready {
			return nil, errNotMaster
		}
		if because := e.changer.situation().MustStay(id); req.Reclone && because != "" {
			return nil, status.Error(codes.FailedPrecondition, because)
		}
		again := time.NewTimer(membershipTick) // Who answers changes without a sign.
		select {
		case <-changed:
		case <-v.Changed:
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// stillLeads returns nil when a quorum has confirmed, from now on, that this
// pod leads: what it knew of the membership before the call was true. A master
// that was paused, or cut off, knows only what was, and whoever is told that it is
// out gives up its data.
func stillLeads(ctx context.Context, e *engine) error {
	if _, err := e.reader.Confirm(ctx); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return nil
}

func (s *peerService) KeepLog(_ context.Context, req *peerv1.KeepLogRequest) (*peerv1.KeepLogResponse, error) {
	e, err := s.master()
	if err != nil {
		return nil, err
	}
	if !replication.MemberID(req.MemberId).Valid() {
		return nil, status.Errorf(codes.InvalidArgument, "%q is not a member id", req.MemberId)
	}
	e.replica.Storage.Log.Hold(req.MemberId, 0, clone.KeepLogFor)
	return &peerv1.KeepLogResponse{}, nil
}

// Clone sends the database as it is on disk, after what is in memory was
// written: the newer it is, the less is left to catch up with.
func (s *peerService) Clone(req *peerv1.CloneRequest, stream grpc.ServerStreamingServer[peerv1.CloneResponse]) error {
	e := s.node.engine.Load()
	if e == nil {
		return status.Error(codes.Unavailable, "this pod has no database yet")
	}
	return e.sender.Serve(req, stream)
}

func (s *peerService) PodStatus(ctx context.Context, _ *peerv1.PodStatusRequest) (*peerv1.PodStatusResponse, error) {
	return &peerv1.PodStatusResponse{Status: s.node.PodStatus(ctx)}, nil
}

func (s *peerService) HandOver(ctx context.Context, req *peerv1.HandOverRequest) (*peerv1.HandOverResponse, error) {
	// Unavailable would not say whether it was done.
	notMaster := status.Error(codes.Aborted, "this pod is not the master")
	e := s.node.engine.Load()
	if e == nil {
		return nil, notMaster
	}
	v := e.replica.Views.Load()
	if !v.Leads {
		return nil, notMaster
	}
	to, err := e.handOver(ctx, v, req.To, false)
	switch {
	case errors.Is(err, replication.ErrNoSuccessor):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &peerv1.HandOverResponse{Master: to}, nil
}
