package etcd

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

const (
	sectorBytes        = store.SectorBytes
	snapshotChunkBytes = server.SnapshotChunkBytes
)

// Snapshot sends this pod's database as Baton backs it up, then zeros up to a
// whole sector and the SHA-256 of all that. It needs no quorum, as etcd's.
func (s *maintenanceService) Snapshot(_ *pb.SnapshotRequest, out grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
	ctx := out.Context()
	st, err := s.pod.local(ctx)
	if err != nil {
		return err
	}
	if err := s.pod.Admin(ctx); err != nil { // Again, by rights as fresh as the data.
		return s.pod.fail(ctx, err)
	}
	database, err := st.SnapshotNow(ctx)
	if err != nil {
		return s.pod.fail(ctx, err)
	}
	defer database.Close() //nolint:errcheck // It was only read.
	return s.pod.fail(ctx, s.pod.WhileRead(ctx, func(moved func()) error {
		return sendSnapshot(ctx, database, database.Size(), func(part *pb.SnapshotResponse) error {
			defer moved()
			if err := s.pod.Admin(ctx); err != nil {
				return err // The caller is no administrator any more.
			}
			return out.Send(part)
		})
	}))
}

// sendSnapshot sends a database of size bytes, the padding and the checksum.
func sendSnapshot(ctx context.Context, database io.Reader, size int64, send func(*pb.SnapshotResponse) error) error {
	padding := (sectorBytes - size%sectorBytes) % sectorBytes
	sum, left := sha256.New(), size+padding
	blob := func(bytes []byte) error {
		return send(&pb.SnapshotResponse{RemainingBytes: uint64(left), Blob: bytes, Version: storageVersion()})
	}
	whole := io.TeeReader(io.MultiReader(database, io.LimitReader(zeros{}, padding)), sum)
	for left > 0 {
		// Not reused: gRPC may still hold the message after Send.
		chunk := make([]byte, min(left, snapshotChunkBytes))
		if _, err := io.ReadFull(whole, chunk); err != nil {
			return errors.Join(errors.New("the database was not read to its end"), err)
		}
		left -= int64(len(chunk))
		if err := blob(chunk); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return blob(sum.Sum(nil))
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
