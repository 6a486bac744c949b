package etcd

import (
	"context"
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// fuzzKV hands what bytes decode to, whatever it is, to a real pod: it must not
// panic, and every error must be one of etcd's.
func fuzzKV[Request proto.Message](f *testing.F, empty Request, seeds []Request, handle func(k *localKV, req Request) error) {
	for _, seed := range seeds {
		encoded, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	k := newLocalKV(f)
	k.put(f, "a", "a/1", "a/2", "b", "c")
	if _, err := k.Compact(f.Context(), &pb.CompactionRequest{Revision: 3}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		req := proto.Clone(empty).(Request)
		if proto.Unmarshal(encoded, req) != nil {
			return
		}
		if err := handle(k, req); err != nil && !etcds(err) {
			t.Errorf("%v: %v", req, err)
		}
	})
}

// etcds says that clients know an error by its text.
func etcds(err error) bool {
	var known rpctypes.EtcdError
	return errors.As(rpctypes.Error(err), &known) || status.Code(err) == codes.Unimplemented
}

func FuzzRange(f *testing.F) {
	fuzzKV(f, &pb.RangeRequest{}, []*pb.RangeRequest{
		{Key: []byte("a"), RangeEnd: []byte("b"), Limit: 2, SortOrder: pb.RangeRequest_DESCEND},
		{Key: []byte{0}, RangeEnd: []byte{0}, SortTarget: pb.RangeRequest_VALUE, MinModRevision: 3, KeysOnly: true},
		{Key: []byte("a"), Revision: 99, Serializable: true},
		{Key: []byte("a"), SortTarget: -7},
	}, func(k *localKV, req *pb.RangeRequest) error {
		if _, err := k.Range(context.Background(), req); err != nil {
			return err
		}
		return k.RangeStream(req, &parts{ctx: context.Background()})
	})
}

func FuzzPut(f *testing.F) {
	fuzzKV(f, &pb.PutRequest{}, []*pb.PutRequest{
		{Key: []byte("a"), Value: []byte("v"), PrevKv: true},
		{Key: []byte("a"), IgnoreValue: true, Lease: -1},
		{Key: make([]byte, 5000)},
	}, func(k *localKV, req *pb.PutRequest) error {
		_, err := k.Put(context.Background(), req)
		return err
	})
}

func FuzzDeleteRange(f *testing.F) {
	fuzzKV(f, &pb.DeleteRangeRequest{}, []*pb.DeleteRangeRequest{
		{Key: []byte("x"), RangeEnd: []byte{0}, PrevKv: true}, {Key: []byte("c"), RangeEnd: []byte("b")},
	}, func(k *localKV, req *pb.DeleteRangeRequest) error {
		_, err := k.DeleteRange(context.Background(), req)
		return err
	})
}

func FuzzCompact(f *testing.F) {
	fuzzKV(f, &pb.CompactionRequest{}, []*pb.CompactionRequest{{Revision: 3}, {Revision: -1, Physical: true}, {Revision: 1 << 62}},
		func(k *localKV, req *pb.CompactionRequest) error {
			_, err := k.Compact(context.Background(), req)
			return err
		})
}

func FuzzTxn(f *testing.F) {
	compare := &pb.Compare{Key: []byte("a"), RangeEnd: []byte{0}, Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Lease{Lease: 1}}
	fuzzKV(f, &pb.TxnRequest{}, []*pb.TxnRequest{
		{Compare: []*pb.Compare{compare}, Success: []*pb.RequestOp{opPut("x"), opRange("a", "z")}, Failure: []*pb.RequestOp{opDelete("a", "z")}},
		{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Failure: []*pb.RequestOp{{}}}), opRange("a", "z"), opPut("y"), opRange("", "z")}},
		{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut("a")}}), opDelete("a", "b")}},
	}, func(k *localKV, req *pb.TxnRequest) error {
		_, err := k.Txn(context.Background(), req)
		return err
	})
}
