package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
)

// kvService answers etcdserverpb.KV.
type kvService struct {
	pb.UnimplementedKVServer
	pod *pod
}

// Waits implements server.Waiter.
func (s *kvService) Waits(method string) bool { return method == "Put" }

// Builds implements server.Builder.
func (s *kvService) Builds(method string) bool { return method != "Put" && method != "Compact" }

func (s *kvService) Put(ctx context.Context, req *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(req); err != nil {
		return nil, err
	}
	if err := checkSize(req); err != nil {
		return nil, err
	}
	command := &kvv1.Command{Command: &kvv1.Command_Put{Put: nativePut(req)}}
	applied, err := server.Propose(s.pod.ShareDeadline(ctx), s.pod.Backend, command, (*kvv1.Result).GetPut)
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	return &pb.PutResponse{Header: s.pod.header(applied.GetHeader().GetRevision()), PrevKv: keyValue(applied.GetPrevKv())}, nil
}

func (s *kvService) DeleteRange(ctx context.Context, req *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkDelete(req); err != nil {
		return nil, err
	}
	if err := checkSize(req); err != nil {
		return nil, err
	}
	command := &kvv1.Command{Command: &kvv1.Command_Delete{Delete: nativeDelete(req)}}
	if req.GetPrevKv() {
		command.Identity = identityFor(s.pod.Access(), []*kvv1.KeyRange{{Key: req.GetKey(), RangeEnd: req.GetRangeEnd()}})
	}
	applied, err := server.Propose(ctx, s.pod.Backend, command, (*kvv1.Result).GetDelete)
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	response, err := s.answer(applied.GetHeader().GetRevision(), applied.GetDeleted() > 0).deletion(ctx, req, applied)
	if err != nil {
		return nil, errAfterwards
	}
	response.Header = s.pod.header(response.GetHeader().GetRevision())
	return response, nil
}

// Compact returns when older revisions can no longer be read. A physical one returns
// when nothing of them is left in this pod's file; the other pods take their own
// time for that, as etcd's do.
func (s *kvService) Compact(ctx context.Context, req *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	command := &kvv1.Command{Command: &kvv1.Command_Compact{Compact: &kvv1.CompactRequest{Revision: req.GetRevision()}}}
	applied, err := server.Propose(ctx, s.pod.Backend, command, (*kvv1.Result).GetCompact)
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	if req.GetPhysical() {
		st, err := s.pod.Read(ctx, nil) // Which waits until it is applied here.
		if err == nil {
			err = st.WaitScrubbed(ctx, req.GetRevision())
		}
		if err != nil {
			return nil, errAfterwards
		}
	}
	return &pb.CompactionResponse{Header: s.pod.header(applied.GetHeader().GetRevision())}, nil
}

func nativePut(req *pb.PutRequest) *kvv1.PutRequest {
	return &kvv1.PutRequest{
		Key: req.GetKey(), Value: req.GetValue(), Lease: req.GetLease(),
		PrevKv: req.GetPrevKv(), IgnoreValue: req.GetIgnoreValue(), IgnoreLease: req.GetIgnoreLease(),
	}
}

// nativeDelete asks for the previous values only of a single key: those of a range
// are read afterwards, like the ranges of a transaction.
func nativeDelete(req *pb.DeleteRangeRequest) *kvv1.DeleteRequest {
	return &kvv1.DeleteRequest{
		Key: req.GetKey(), RangeEnd: req.GetRangeEnd(), PrevKv: req.GetPrevKv() && len(req.GetRangeEnd()) == 0,
	}
}

func keyValue(kv *kvv1.KeyValue) *mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	converted := &mvccpb.KeyValue{}
	convert(converted, kv)
	return converted
}

// keyValues converts all with one allocation.
func keyValues(kvs []*kvv1.KeyValue) []*mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	all, converted := make([]mvccpb.KeyValue, len(kvs)), make([]*mvccpb.KeyValue, len(kvs))
	for i, kv := range kvs {
		convert(&all[i], kv)
		converted[i] = &all[i]
	}
	return converted
}

func convert(to *mvccpb.KeyValue, kv *kvv1.KeyValue) {
	to.Key, to.Value, to.Lease = kv.GetKey(), kv.GetValue(), kv.GetLease()
	to.CreateRevision, to.ModRevision, to.Version = kv.GetCreateRevision(), kv.GetModRevision(), kv.GetVersion()
}
