package client

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Status tells how every member is, reachable or not.
func (c *Client) Status(ctx context.Context) (*kvv1.StatusResponse, error) {
	var response *kvv1.StatusResponse
	err := c.do(ctx, call{send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewClusterServiceClient(conn).Status(ctx, &kvv1.StatusRequest{})
		return nil, err
	}})
	if err == nil {
		c.observeStatus(response)
	}
	return response, err
}

// Compact forgets the history before a revision, which stays readable.
// [ErrCompacted] says that it was done before.
func (c *Client) Compact(ctx context.Context, revision int64) error {
	return c.do(ctx, call{want: theMaster, write: true, send: func(ctx context.Context, conn *grpc.ClientConn) (*kvv1.ResponseHeader, error) {
		response, err := kvv1.NewMaintenanceServiceClient(conn).Compact(ctx, &kvv1.CompactRequest{Revision: revision})
		return response.GetHeader(), err
	}})
}

// Hash gives the running hash, of one pod, of all that was applied up to a
// revision (0: its newest): the same on every pod.
func (c *Client) Hash(ctx context.Context, revision int64) (*kvv1.HashResponse, error) {
	var response *kvv1.HashResponse
	err := c.do(ctx, call{send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewMaintenanceServiceClient(conn).Hash(ctx, &kvv1.HashRequest{Revision: revision})
		return response.GetHeader(), err
	}})
	return response, err
}

// HandOver makes the named pod the master, with "" the one that is furthest,
// and returns the new master's name. It is not repeated when its outcome is
// unknown: Status tells.
func (c *Client) HandOver(ctx context.Context, pod string) (string, error) {
	var master string
	err := c.do(ctx, call{want: theMaster, write: true, once: true, send: func(ctx context.Context, conn *grpc.ClientConn) (*kvv1.ResponseHeader, error) {
		response, err := kvv1.NewMaintenanceServiceClient(conn).HandOver(ctx, &kvv1.HandOverRequest{To: pod})
		master = response.GetMaster()
		return nil, err
	}})
	c.pods.refresh()
	return master, err
}

// Snapshot streams the database of one pod, a follower if there is one. size is
// about its length in bytes, for progress. A reader that ends with io.EOF has
// given all of it; close it in any case. A lost stream is not resumed.
func (c *Client) Snapshot(ctx context.Context) (snapshot io.ReadCloser, size int64, err error) {
	streamCtx, cancel := context.WithCancel(ctx)
	r := &snapshotReader{cancel: cancel}
	// The stream outlives the attempt that opens it, so it has its own context.
	err = c.do(ctx, call{want: notTheMaster, send: func(attempt context.Context, conn *grpc.ClientConn) (*kvv1.ResponseHeader, error) {
		return nil, r.open(attempt, streamCtx, conn)
	}})
	if err != nil {
		cancel()
		return nil, 0, err
	}
	return r, r.size, nil
}

type snapshotReader struct {
	stream kvv1.MaintenanceService_SnapshotClient
	cancel context.CancelFunc
	chunk  []byte
	size   int64
	err    error
}

// open waits for the first chunk, so that what prevents a snapshot is an error
// of the call.
func (r *snapshotReader) open(attempt, ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx) // on success r.cancel, of the parent, ends it
	stop := context.AfterFunc(attempt, cancel)
	stream, err := kvv1.NewMaintenanceServiceClient(conn).Snapshot(ctx, &kvv1.SnapshotRequest{})
	if err != nil {
		cancel()
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		cancel()
		if errors.Is(err, io.EOF) {
			r.stream, r.err = stream, io.EOF
			return nil
		}
		return err
	}
	if !stop() {
		return context.DeadlineExceeded
	}
	r.stream, r.chunk, r.size = stream, first.GetChunk(), first.GetTotalBytes()
	return nil
}

func (r *snapshotReader) Read(p []byte) (int, error) {
	for len(r.chunk) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		response, err := r.stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			r.err = io.EOF
		case err != nil:
			r.err = fromRPC(err)
		}
		r.chunk = response.GetChunk()
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

func (r *snapshotReader) Close() error {
	r.cancel()
	return nil
}
