package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// The log does not carry all that a transaction asks for: ranges are read afterwards,
// and compares that are always true are left out. The rights on those are needed as
// well, also where the command is applied.

// identityFor has the ranges that a write reads besides what its command says; nil
// while access control is off. The caller is noted when the command is proposed.
func identityFor(state *access.State, ranges []*kvv1.KeyRange) *kvv1.Identity {
	if !state.Enabled() || len(ranges) == 0 {
		return nil
	}
	return &kvv1.Identity{Reads: ranges}
}

// reads are all ranges that a transaction reads, in both branches, however deep.
func reads(req *pb.TxnRequest) []*kvv1.KeyRange {
	var all []*kvv1.KeyRange
	for _, c := range req.GetCompare() {
		all = append(all, &kvv1.KeyRange{Key: c.GetKey(), RangeEnd: c.GetRangeEnd()})
	}
	for _, ops := range [][]*pb.RequestOp{req.GetSuccess(), req.GetFailure()} {
		for _, op := range ops {
			switch o := op.GetRequest().(type) {
			case *pb.RequestOp_RequestRange:
				all = append(all, &kvv1.KeyRange{Key: o.RequestRange.GetKey(), RangeEnd: o.RequestRange.GetRangeEnd()})
			case *pb.RequestOp_RequestDeleteRange:
				if o.RequestDeleteRange.GetPrevKv() {
					all = append(all, &kvv1.KeyRange{Key: o.RequestDeleteRange.GetKey(), RangeEnd: o.RequestDeleteRange.GetRangeEnd()})
				}
			case *pb.RequestOp_RequestTxn:
				all = append(all, reads(o.RequestTxn)...)
			}
		}
	}
	return all
}

// mayRead refuses a caller who may not read all of some ranges of a copy.
func mayRead(ctx context.Context, st *store.Store, ranges func() []*kvv1.KeyRange) error {
	state := st.Access()
	if !state.Enabled() {
		return nil
	}
	who := caller.From(ctx)
	for _, r := range ranges() {
		if err := state.Read(who, r.GetKey(), r.GetRangeEnd()); err != nil {
			return err
		}
	}
	return nil
}
