package differential

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
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
	return fmt.Sprintf("%s%T{%s}", streamed, r.message, short(prototext.MarshalOptions{}.Format(r.message)))
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

// answer is what a system made of a request.
type answer struct {
	message proto.Message
	err     error
}

// send makes the call.
func (r request) send(ctx context.Context, conn *grpc.ClientConn) answer {
	message, err := r.call(ctx, conn)
	if err != nil {
		return answer{err: err}
	}
	normalize(message)
	return answer{message: message}
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

// normalize removes what cannot be equal: the names of the servers, Raft's term,
// what a clock decides, and the order of what has none.
func normalize(message proto.Message) {
	if m, ok := message.(interface{ GetHeader() *pb.ResponseHeader }); ok && m.GetHeader() != nil {
		header := m.GetHeader()
		header.ClusterId, header.MemberId, header.RaftTerm = 0, 0, 0
	}
	switch m := message.(type) {
	case *pb.LeaseTimeToLiveResponse:
		m.TTL = min(m.TTL, 1)
		slices.SortFunc(m.Keys, bytes.Compare)
	case *pb.LeaseLeasesResponse:
		slices.SortFunc(m.Leases, func(x, y *pb.LeaseStatus) int { return cmp.Compare(x.GetID(), y.GetID()) })
	}
}

func (a answer) equal(other answer) bool {
	if a.err != nil || other.err != nil {
		x, y := status.Convert(a.err), status.Convert(other.err)
		return x.Code() == y.Code() && x.Message() == y.Message()
	}
	return proto.Equal(a.message, other.message)
}

func (a answer) String() string {
	if a.err != nil {
		return fmt.Sprintf("%v: %s", status.Code(a.err), status.Convert(a.err).Message())
	}
	return short(prototext.MarshalOptions{}.Format(a.message))
}

// short leaves out the middle of large values.
func short(text string) string {
	const most = 6000
	if len(text) <= most {
		return text
	}
	return text[:most/2] + " ... " + text[len(text)-most/2:]
}
