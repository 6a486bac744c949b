package server

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// maintenanceService answers baton.kv.v1.MaintenanceService.
type maintenanceService struct {
	kvv1.UnsafeMaintenanceServiceServer
	core *core
}

func (s *maintenanceService) Compact(ctx context.Context, req *kvv1.CompactRequest) (*kvv1.CompactResponse, error) {
	if req.GetRevision() < 1 {
		return nil, errInvalid("revision", "must be positive")
	}
	return propose(ctx, s.core, &kvv1.Command{Command: &kvv1.Command_Compact{Compact: req}}, (*kvv1.Result).GetCompact)
}

// Hash waits for the revision: a follower that is asked for the master's newest
// revision has it a moment later.
func (s *maintenanceService) Hash(ctx context.Context, req *kvv1.HashRequest) (*kvv1.HashResponse, error) {
	if req.GetRevision() < 0 {
		return nil, errInvalid("revision", "is negative")
	}
	st, err := s.core.needStore()
	if err != nil {
		return nil, err
	}
	if err := st.WaitRevision(ctx, req.GetRevision()); err != nil {
		return nil, err
	}
	revision, hash, err := st.Hash(req.GetRevision())
	if err != nil {
		return nil, err
	}
	header := &kvv1.ResponseHeader{Revision: revision, Pod: s.core.options.Name}
	return &kvv1.HashResponse{Header: header, Revision: revision, Hash: hash}, nil
}

// HandOver works on any pod: the log asks the master.
func (s *maintenanceService) HandOver(ctx context.Context, req *kvv1.HandOverRequest) (*kvv1.HandOverResponse, error) {
	log, err := s.core.needLog()
	if err != nil {
		return nil, err
	}
	if err := s.core.mayOrder(ctx); err != nil {
		return nil, err
	}
	master, err := log.HandOver(ctx, req.GetTo())
	if err == nil {
		return &kvv1.HandOverResponse{Master: master}, nil
	}
	if status.Code(err) == codes.Unavailable {
		// The master was asked, and may have handed the baton over: a repetition would
		// pass it on to yet another pod.
		err = fmt.Errorf("%w: %s", replication.ErrUnknown, status.Convert(err).Message())
	}
	return nil, err
}

func (s *maintenanceService) Snapshot(req *kvv1.SnapshotRequest, out grpc.ServerStreamingServer[kvv1.SnapshotResponse]) error {
	if err := checkReadOptions(req.GetRead()); err != nil {
		return err
	}
	ctx := out.Context()
	st, err := s.core.prepareStream(ctx, req.GetRead())
	if err != nil {
		return err
	}
	if err := s.core.allow(ctx, administrator); err != nil { // Again, by rights as fresh as the data.
		return err
	}
	database, err := st.SnapshotNow(ctx)
	if err != nil {
		return err
	}
	defer database.Close() //nolint:errcheck // It was only read.
	send := func(part *kvv1.SnapshotResponse) error {
		if err := s.core.allow(ctx, administrator); err != nil {
			return err // It is so no longer.
		}
		return out.Send(part)
	}
	return s.core.whileRead(ctx, func(moved func()) error { return sendSnapshot(ctx, database, send, moved) })
}

func sendSnapshot(ctx context.Context, database replication.Snapshot, send func(*kvv1.SnapshotResponse) error, moved func()) error {
	for {
		// Not reused: gRPC may still hold the message after Send.
		chunk := make([]byte, SnapshotChunkBytes)
		n, err := io.ReadFull(database, chunk)
		if n > 0 {
			if err := send(&kvv1.SnapshotResponse{TotalBytes: database.Size(), Chunk: chunk[:n]}); err != nil {
				return err
			}
			moved()
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}
