package differential

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// maxMessageBytes is what etcd's gRPC takes at most; what is larger never gets to
// what is compared here.
const maxMessageBytes = 2 << 20

// allowedTxn is a transaction that both systems must treat alike.
func (g *generator) allowedTxn() *pb.TxnRequest {
	for {
		txn := g.txn(0)
		if g.chance(1) {
			g.fill(txn)
		}
		if !overlooked(txn) && proto.Size(txn) < maxMessageBytes {
			return txn
		}
	}
}

func (g *generator) txn(depth int) *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	for range g.IntN(3) {
		txn.Compare = append(txn.Compare, g.compare())
	}
	readOnly := g.chance(25)
	for range g.IntN(4) {
		txn.Success = append(txn.Success, g.op(depth, readOnly))
	}
	for range g.IntN(4) {
		txn.Failure = append(txn.Failure, g.op(depth, readOnly))
	}
	return txn
}

// fill makes a list about as long as it may be.
func (g *generator) fill(txn *pb.TxnRequest) {
	for range 120 + g.IntN(14) {
		txn.Success = append(txn.Success, g.op(9, true))
	}
}

func (g *generator) op(depth int, readOnly bool) *pb.RequestOp {
	n := g.IntN(100)
	if g.chance(1) {
		return &pb.RequestOp{}
	}
	switch {
	case n < 15 && depth < 4:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth + 1)}}
	case n < 50 || readOnly:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeInTxn()}}
	case n < 85:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.remove()}}
}

// rangeInTxn reads the present more often than one outside: most transactions
// would fail for a revision otherwise.
func (g *generator) rangeInTxn() *pb.RangeRequest {
	r := g.readRange(true)
	if g.chance(70) {
		r.Revision = 0
	}
	return r
}

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{Result: pb.Compare_CompareResult(g.IntN(4)), Target: pb.Compare_CompareTarget(g.IntN(5))}
	c.Key, c.RangeEnd = g.bounds()
	kind := c.Target
	if g.chance(3) {
		kind = pb.Compare_CompareTarget(g.IntN(5)) // What is given is not what is compared.
	}
	switch kind {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: g.Int64N(4)}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: max(0, g.Int64N(30)*g.Int64N(2)*(g.revision/30))}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: max(0, g.revision-g.Int64N(40))}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.smallValue()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: g.Int64N(leases + 1)}
	}
	if g.chance(1) {
		c.Result = 9
	}
	if g.chance(1) {
		c.Target = 9
	}
	return c
}

// overlooked: etcd lets some transactions through that write a key twice, which
// Baton refuses; docs/etcd.md has them. In one, a put and, nested elsewhere, a
// deletion that comes later; in the other a put and a deletion of everything
// after a key.
func overlooked(txn *pb.TxnRequest) bool {
	_, _, success := written(txn.GetSuccess())
	_, _, failure := written(txn.GetFailure())
	return success || failure
}

// written collects what a list may write.
func written(ops []*pb.RequestOp) (puts [][]byte, deletes []*pb.DeleteRangeRequest, over bool) {
	var nestedPuts [][]byte
	for _, op := range ops {
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			puts = append(puts, o.RequestPut.GetKey())
		case *pb.RequestOp_RequestDeleteRange:
			deletes = append(deletes, o.RequestDeleteRange)
		case *pb.RequestOp_RequestTxn:
			thenPuts, thenDeletes, overThen := written(o.RequestTxn.GetSuccess())
			elsePuts, elseDeletes, overElse := written(o.RequestTxn.GetFailure())
			inner := append(thenDeletes, elseDeletes...)
			over = over || overThen || overElse || meet(nestedPuts, inner, false)
			nestedPuts = append(append(nestedPuts, thenPuts...), elsePuts...)
			deletes = append(deletes, inner...)
		}
	}
	puts = append(puts, nestedPuts...)
	return puts, deletes, over || meet(puts, deletes, true)
}

// meet: a deletion has one of the keys in it; open: only one without an end.
func meet(puts [][]byte, deletes []*pb.DeleteRangeRequest, open bool) bool {
	for _, d := range deletes {
		endless := bytes.Equal(d.GetRangeEnd(), []byte{0})
		if open && !endless {
			continue
		}
		for _, key := range puts {
			if bytes.Equal(key, d.GetKey()) && (len(d.GetRangeEnd()) == 0 || endless) {
				return true
			}
			if bytes.Compare(key, d.GetKey()) >= 0 && (endless || bytes.Compare(key, d.GetRangeEnd()) < 0) {
				return true
			}
		}
	}
	return false
}
