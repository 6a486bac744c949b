package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// kvService answers etcdserverpb.KV.
type kvService struct {
	pb.UnimplementedKVServer
	*pod
}

func (s *kvService) Put(ctx context.Context, req *pb.PutRequest) (*pb.PutResponse, error) {
	if len(req.GetKey()) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	put := &kvv1.PutRequest{
		Key: req.GetKey(), Value: req.GetValue(), Lease: req.GetLease(),
		PrevKv: req.GetPrevKv(), IgnoreValue: req.GetIgnoreValue(), IgnoreLease: req.GetIgnoreLease(),
	}
	result, err := s.Propose(ctx, &kvv1.Command{Command: &kvv1.Command_Put{Put: put}})
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	response := result.GetPut()
	return &pb.PutResponse{Header: s.header(response.GetHeader().GetRevision()), PrevKv: keyValue(response.GetPrevKv())}, nil
}

func keyValue(kv *kvv1.KeyValue) *mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	return &mvccpb.KeyValue{
		Key: kv.GetKey(), Value: kv.GetValue(), Lease: kv.GetLease(),
		CreateRevision: kv.GetCreateRevision(), ModRevision: kv.GetModRevision(), Version: kv.GetVersion(),
	}
}
