package client

import (
	"context"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Grant makes a lease that lives for ttl (rounded up to seconds, at least 1 s)
// from its last keep-alive on, and returns its id.
func (c *Client) Grant(ctx context.Context, ttl time.Duration) (int64, error) {
	request := &kvv1.GrantRequest{
		TtlSeconds: int64((ttl + time.Second - 1) / time.Second),
		RequestId:  c.newRequestID(),
	}
	var id int64
	err := c.write(ctx, request.RequestId, func(ctx context.Context, conn *grpc.ClientConn) (*kvv1.ResponseHeader, error) {
		response, err := kvv1.NewLeaseServiceClient(conn).Grant(ctx, request)
		id = response.GetId()
		return response.GetHeader(), err
	})
	return id, err
}

// Revoke ends a lease and deletes its keys; the answer says how many.
func (c *Client) Revoke(ctx context.Context, lease int64) (*kvv1.RevokeResponse, error) {
	request := &kvv1.RevokeRequest{Id: lease, RequestId: c.newRequestID()}
	var response *kvv1.RevokeResponse
	err := c.write(ctx, request.RequestId, func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewLeaseServiceClient(conn).Revoke(ctx, request)
		return response.GetHeader(), err
	})
	if err == nil {
		c.keepers.lost(lease, ErrLeaseNotFound) // its holders need not wait to be told
	}
	return response, err
}

// TimeToLive asks how long a lease has, with its keys if wanted.
func (c *Client) TimeToLive(ctx context.Context, lease int64, keys bool) (*kvv1.TimeToLiveResponse, error) {
	var response *kvv1.TimeToLiveResponse
	err := c.do(ctx, call{want: theMaster, send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewLeaseServiceClient(conn).TimeToLive(ctx, &kvv1.TimeToLiveRequest{Id: lease, Keys: keys})
		return response.GetHeader(), err
	}})
	return response, err
}

// ListLeases gives the leases that the master knows, in the order of ids.
func (c *Client) ListLeases(ctx context.Context) (*kvv1.ListLeasesResponse, error) {
	var response *kvv1.ListLeasesResponse
	err := c.do(ctx, call{want: theMaster, send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewLeaseServiceClient(conn).ListLeases(ctx, &kvv1.ListLeasesRequest{})
		return response.GetHeader(), err
	}})
	return response, err
}

// KeepAlive keeps a lease alive in the background until ctx ends, which does
// not revoke it. The context that it returns ends with ctx, or when the lease
// is lost: revoked, or not kept alive in time, by this machine's clocks, because
// no master could be reached or the machine slept. context.Cause then gives
// [ErrLeaseNotFound]. A wall clock that is set forward by a time to live loses
// leases, too: it looks like sleep. However many leases a client keeps alive,
// they share one stream.
func (c *Client) KeepAlive(ctx context.Context, lease int64) (context.Context, error) {
	return c.keepAliveBefore(ctx, ctx, lease)
}

// keepAliveBefore is KeepAlive with a context of its own, ask, for the question
// whether there is such a lease.
func (c *Client) keepAliveBefore(ask, ctx context.Context, lease int64) (context.Context, error) {
	var asked time.Time
	var response *kvv1.TimeToLiveResponse
	err := c.do(ask, call{want: theMaster, send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		asked = c.keepers.now()
		response, err = kvv1.NewLeaseServiceClient(conn).TimeToLive(ctx, &kvv1.TimeToLiveRequest{Id: lease})
		return response.GetHeader(), err
	}})
	if err != nil {
		return nil, err
	}
	// Count what remains from before the question was sent. A master of a version that
	// does not tell milliseconds rounds up to seconds.
	remaining := max(response.GetRemainingMs(), (response.GetRemainingSeconds()-1)*1000)
	until := asked.Add(time.Duration(remaining) * time.Millisecond)
	ttl := time.Duration(response.GetGrantedTtlSeconds()) * time.Second
	return c.keepers.add(c, ctx, lease, ttl, until), nil
}
