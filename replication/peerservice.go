package replication

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/internal/policy"
	"github.com/batondb/baton/replication/internal/volume"
)

// peerService answers the other pods.
type peerService struct {
	peerv1.UnimplementedPeerServiceServer
	node *Node
}

var errNotMaster = status.Error(codes.Unavailable, "this pod is not the master")

// master is the engine, if this pod is the master.
func (s *peerService) master() (*engine, error) {
	e := s.node.engine.Load()
	if e == nil || !e.replica.views.load().ready {
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
		Stopping: s.node.stopping.Load() || condemned, Condemned: condemned,
	}
	e := s.node.engine.Load()
	if e == nil {
		answer.Cold = s.node.arrivingStatus().Cold
		return answer, nil
	}
	answer.Cold = e.cold.Load() || condemned && s.node.AwaitsNext()
	v := e.replica.views.load()
	_, member := server(e.replica.membership.now.Load().Configuration, e.self)
	answer.MasterPod = v.master.Pod()
	answer.Master, answer.Cloneable = v.ready, member && e.caught.Load() && !condemned
	answer.Term = e.replica.raft.CurrentTerm()
	last := e.replica.storage.lastEntry()
	answer.LastIndex, answer.LastLogTerm = last.Index, last.Term
	if s.node.opts.PodStatus != nil {
		answer.Revision = s.node.PodStatus(context.Background()).Revision
	}
	return answer, nil
}

// Forward is the master's end of a forwarder's stream.
func (s *peerService) Forward(stream grpc.BidiStreamingServer[peerv1.ForwardRequest, peerv1.ForwardResponse]) error {
	defer s.node.forwards.add()()
	return serveForwards(stream, func(p *pending, c *kvv1.Command) error {
		e := s.node.engine.Load()
		if e == nil {
			return ErrNotReady
		}
		return e.router.accept(p, c)
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
	applied := e.replica.trail.last()
	g, err := e.reader.confirms.get(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &peerv1.ReadIndexResponse{Index: g.index, Applied: applied.proto()}, nil
}

func (s *peerService) Compare(ctx context.Context, req *peerv1.CompareRequest) (*peerv1.CompareResponse, error) {
	e := s.node.engine.Load()
	if e == nil {
		return nil, status.Error(codes.Unavailable, "this pod has no database yet")
	}
	theirs := markOf(req.GetOwn())
	if err := e.replica.applied.wait(ctx, theirs.Index); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	if err := e.reader.agree(req.GetPod(), theirs); err != nil {
		e.logger.Debug("asked by a pod that differs", "error", err)
	}
	return &peerv1.CompareResponse{Mark: e.replica.trail.at(theirs.Index).proto()}, nil
}

func (s *peerService) Join(ctx context.Context, req *peerv1.JoinRequest) (*peerv1.JoinResponse, error) {
	e, err := s.master()
	if err != nil {
		return nil, err
	}
	id := MemberID(req.MemberId)
	if !id.Valid() || req.Address != req.MemberId || Ordinal(id.Pod()) < 0 {
		return nil, status.Errorf(codes.InvalidArgument, "%q at %q is not a member id", req.MemberId, req.Address)
	}
	s.node.callers.note(id.Pod())
	asks := policy.Admission{
		Member: id, Returning: req.Returning, Removed: e.changer.hasRemoved(id),
		Committed: members(e.replica.membership.now.Load().Configuration), Latest: members(e.replica.configuration()),
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
	e.replica.storage.log.Hold(req.MemberId, 0, keepLogFor)
	e.changer.join(id, req.Index, e.replica.raft.CommitIndex())
	return &peerv1.JoinResponse{}, nil
}

func (s *peerService) Leave(ctx context.Context, req *peerv1.LeaveRequest) (*peerv1.LeaveResponse, error) {
	e, err := s.master()
	if err != nil {
		return nil, err
	}
	id := MemberID(req.MemberId)
	if id == e.self {
		return nil, status.Error(codes.FailedPrecondition, "the master must hand the baton over before it leaves")
	}
	e.changer.leave(id, req.Reclone)
	for {
		if e.changer.without(id, req.Reclone) {
			if err := stillLeads(ctx, e); err != nil {
				return nil, err
			}
			return &peerv1.LeaveResponse{}, nil
		}
		if !e.replica.views.load().ready {
			return nil, errNotMaster
		}
		if because := e.changer.situation().MustStay(id); req.Reclone && because != "" {
			return nil, status.Error(codes.FailedPrecondition, because)
		}
		sleep(ctx, 20*time.Millisecond)
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		e.changer.leave(id, req.Reclone)
	}
}

// stillLeads returns nil when a quorum has confirmed, from now on, that this
// pod leads: what it knew of the membership before the call was true. A master
// that was paused, or cut off, knows only what was, and whoever is told that it is
// out gives up its data.
func stillLeads(ctx context.Context, e *engine) error {
	if _, err := e.reader.confirms.get(ctx); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return nil
}

func (s *peerService) KeepLog(_ context.Context, req *peerv1.KeepLogRequest) (*peerv1.KeepLogResponse, error) {
	e, err := s.master()
	if err != nil {
		return nil, err
	}
	if !MemberID(req.MemberId).Valid() {
		return nil, status.Errorf(codes.InvalidArgument, "%q is not a member id", req.MemberId)
	}
	e.replica.storage.log.Hold(req.MemberId, 0, keepLogFor)
	return &peerv1.KeepLogResponse{}, nil
}

// Clone sends the database as it is on disk, after what is in memory was
// written: the newer it is, the less is left to catch up with.
func (s *peerService) Clone(req *peerv1.CloneRequest, stream grpc.ServerStreamingServer[peerv1.CloneResponse]) error {
	e := s.node.engine.Load()
	if e == nil {
		return status.Error(codes.Unavailable, "this pod has no database yet")
	}
	return e.sender.serve(req, stream)
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
	v := e.replica.views.load()
	if !v.leads {
		return nil, notMaster
	}
	to, err := e.handOver(ctx, v, req.To, false)
	switch {
	case errors.Is(err, ErrNoHeir):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &peerv1.HandOverResponse{Master: to}, nil
}
