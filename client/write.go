package client

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func (o writeOptions) put(key string, value []byte) *kvv1.PutRequest {
	return &kvv1.PutRequest{
		Key: []byte(key), Value: value, Lease: o.lease, PrevKv: o.prevKV,
		IgnoreValue: o.keepValue, IgnoreLease: o.keepLease,
	}
}

func (o writeOptions) delete(keys Keys) (*kvv1.DeleteRequest, error) {
	if o.lease != 0 || o.keepLease || o.keepValue {
		return nil, invalid("of all options only WithPrevKV is for a delete")
	}
	if err := keys.check(); err != nil {
		return nil, err
	}
	return &kvv1.DeleteRequest{Key: []byte(keys.first), RangeEnd: keys.endBytes(), PrevKv: o.prevKV}, nil
}

// Put writes one key. The answer's header has the revision that it made.
func (c *Client) Put(ctx context.Context, key string, value []byte, options ...WriteOption) (*kvv1.PutResponse, error) {
	if err := checkPutSize(key, len(value)); err != nil {
		return nil, err
	}
	request := with[writeOptions](options).put(key, value)
	request.RequestId = c.newRequestID()
	var response *kvv1.PutResponse
	err := c.write(ctx, request.RequestId, func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewKVServiceClient(conn).Put(ctx, request)
		return response.GetHeader(), err
	})
	return response, err
}

// Delete removes keys, at one revision. To remove none is not an error: the
// answer says how many there were.
func (c *Client) Delete(ctx context.Context, keys Keys, options ...WriteOption) (*kvv1.DeleteResponse, error) {
	request, err := with[writeOptions](options).delete(keys)
	if err != nil {
		return nil, err
	}
	request.RequestId = c.newRequestID()
	var response *kvv1.DeleteResponse
	err = c.write(ctx, request.RequestId, func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewKVServiceClient(conn).Delete(ctx, request)
		return response.GetHeader(), err
	})
	return response, err
}

// write sends a request that carries id, exactly once whatever happens.
func (c *Client) write(ctx context.Context, id *kvv1.RequestId, send func(context.Context, *grpc.ClientConn) (*kvv1.ResponseHeader, error)) error {
	cut := false
	err := c.do(ctx, call{want: theMaster, write: true, id: id, send: func(ctx context.Context, conn *grpc.ClientConn) (*kvv1.ResponseHeader, error) {
		header, err := send(ctx, conn)
		cut = header.GetCut()
		return header, err
	}})
	if err == nil && cut {
		return resultCut()
	}
	return err
}

func notFound(key string) *Error {
	return &Error{
		Code: codes.NotFound, Reason: kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND,
		Message: "there is no key " + quoted(key),
	}
}
