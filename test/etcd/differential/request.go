package differential

import (
	"context"
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/test/etcd/answers"
)

// request is one call.
type request struct {
	message  proto.Message
	streamed bool // A range as a stream.
}

func (r request) String() string {
	streamed := ""
	if r.streamed {
		streamed = "streamed "
	}
	return streamed + answers.Text(r.message)
}

// catchUp returns when a pod has all that was written before.
func catchUp(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("any")})
	return err
}

// stale says that the answer may lag behind on a pod that has not caught up.
func (r request) stale() bool {
	switch m := r.message.(type) {
	case *pb.RangeRequest:
		return m.GetSerializable()
	case *pb.TxnRequest, *pb.LeaseTimeToLiveRequest, *pb.LeaseLeasesRequest:
		return true
	}
	return false
}

// send makes the call.
func (r request) send(ctx context.Context, conn *grpc.ClientConn) answers.Answer {
	message, err := r.call(ctx, conn)
	if err != nil {
		return answers.Answer{Err: err}
	}
	a := answers.Answer{Message: message}
	a.Normalize()
	return a
}

func (r request) call(ctx context.Context, conn *grpc.ClientConn) (proto.Message, error) {
	kv, lease := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	switch m := r.message.(type) {
	case *pb.RangeRequest:
		if r.streamed {
			return stream(ctx, kv, m)
		}
		return kv.Range(ctx, m)
	case *pb.PutRequest:
		return kv.Put(ctx, m)
	case *pb.DeleteRangeRequest:
		return kv.DeleteRange(ctx, m)
	case *pb.TxnRequest:
		return kv.Txn(ctx, m)
	case *pb.CompactionRequest:
		return kv.Compact(ctx, m)
	case *pb.LeaseGrantRequest:
		return lease.LeaseGrant(ctx, m)
	case *pb.LeaseRevokeRequest:
		return lease.LeaseRevoke(ctx, m)
	case *pb.LeaseTimeToLiveRequest:
		return lease.LeaseTimeToLive(ctx, m)
	case *pb.LeaseLeasesRequest:
		return lease.LeaseLeases(ctx, m)
	}
	return nil, fmt.Errorf("no call for a %T", r.message)
}

// stream puts the parts of a stream together: where they end is not compared.
func stream(ctx context.Context, kv pb.KVClient, req *pb.RangeRequest) (proto.Message, error) {
	parts, err := kv.RangeStream(ctx, req)
	if err != nil {
		return nil, err
	}
	whole := &pb.RangeResponse{}
	for {
		part, err := parts.Recv()
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if err != nil {
			return nil, err
		}
		if whole.Header != nil {
			return nil, fmt.Errorf("a part comes after that with the header: %v", part)
		}
		proto.Merge(whole, part.GetRangeResponse())
	}
}
