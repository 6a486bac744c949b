package etcd

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/status"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// sessionTTL is the time to live in seconds of the lease that a caller without one
	// gets: as long as etcd's sessions.
	sessionTTL = 60
	// stepPatience bounds each request within a call that may wait for ever.
	stepPatience = 10 * time.Second
)

// queue is what locks and elections are made of, in these services as in etcd's
// clients: each caller has a key, <name>/<lease in hex>, which ends with its lease.
// The key that was created first holds the lock, or leads; the others wait until all
// the keys before theirs are deleted.
type queue struct {
	pod *pod
	kv  pb.KVServer
}

// place is a caller's place in a queue.
type place struct {
	name, key []byte
	lease     int64
	revision  int64 // That created the key.
	header    *pb.ResponseHeader
	first     *mvccpb.KeyValue // Of the whole queue, as of header.
}

// join takes a place in a queue for a lease. The lease may have it already, from a
// call that the caller gave up and now repeats. So join always writes the key: when
// the earlier call ends, it sees that the place is no longer its own.
func (q *queue) join(ctx context.Context, name []byte, lease int64, value []byte) (*place, error) {
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	if lease == 0 {
		granted, err := (&leaseService{pod: q.pod}).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: sessionTTL})
		if err != nil {
			return nil, err
		}
		lease = granted.GetID()
	}
	p := &place{name: name, key: fmt.Appendf(nil, "%s/%x", name, lease), lease: lease}
	own := put(p.key, value, lease)
	own.GetRequestPut().PrevKv = true
	response, err := q.kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{own, get(oldest(name))}})
	if err != nil {
		return nil, err
	}
	p.header, p.revision = response.GetHeader(), response.GetHeader().GetRevision()
	if mine := response.GetResponses()[0].GetResponsePut().GetPrevKv(); mine != nil {
		p.revision = mine.GetCreateRevision()
	}
	if all := response.GetResponses()[1].GetResponseRange().GetKvs(); len(all) > 0 {
		p.first = all[0]
	}
	return p, nil
}

// wait returns when every key before the place is deleted. If the place is gone by
// then, it fails with gone. On any error it gives the place up, so that nobody waits
// for a caller that has left. A caller that runs out of time was waiting for other
// callers, not for the pods: as in etcd, it does not get UNAVAILABLE, which would
// make it try again.
func (q *queue) wait(ctx context.Context, p *place, gone error) (*pb.ResponseHeader, error) {
	header, err := q.turn(ctx, p, gone)
	if err != nil {
		q.abandon(ctx, p)
		if ctx.Err() != nil {
			err = status.FromContextError(ctx.Err()).Err()
		}
	}
	return header, err
}

// abandon gives up a place for a caller that may have left, unless the caller has
// come back meanwhile and written the key. If that fails, the lease ends it.
func (q *queue) abandon(ctx context.Context, p *place) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepPatience)
	defer cancel()
	joined := []*pb.Compare{{
		Key: p.key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: p.header.GetRevision()},
	}}
	_, _ = q.kv.Txn(ctx, &pb.TxnRequest{Compare: joined, Success: []*pb.RequestOp{remove(p.key)}})
}

func (q *queue) turn(ctx context.Context, p *place, gone error) (*pb.ResponseHeader, error) {
	ctx, release := q.pod.StreamContext(ctx)
	defer release()
	for {
		before := newest(p.name)
		before.MaxCreateRevision = p.revision - 1
		ahead, err := q.get(ctx, before)
		if err != nil {
			return nil, err
		}
		if len(ahead.GetKvs()) == 0 {
			break
		}
		if err := q.awaitDelete(ctx, ahead.GetKvs()[0].GetKey(), ahead.GetHeader().GetRevision()); err != nil {
			return nil, err
		}
	}
	mine, err := q.get(ctx, &pb.RangeRequest{Key: p.key})
	switch {
	case err != nil:
		return nil, err
	case len(mine.GetKvs()) == 0 || mine.GetKvs()[0].GetCreateRevision() != p.revision:
		return nil, gone
	}
	return mine.GetHeader(), nil
}

// awaitDelete returns when a key that existed at a revision may be gone.
func (q *queue) awaitDelete(ctx context.Context, key []byte, revision int64) error {
	return q.follow(ctx, &kvv1.WatchRequest{
		Key: key, StartRevision: revision + 1, Exclude: []kvv1.Event_Type{kvv1.Event_TYPE_PUT},
	}, func(*kvv1.WatchResponse) (bool, error) { return true, nil })
}

// follow passes changes to see until it has seen enough. It also returns when a
// compaction overtakes it: the caller then looks at the keys again.
func (q *queue) follow(ctx context.Context, changes *kvv1.WatchRequest, see func(*kvv1.WatchResponse) (enough bool, err error)) error {
	cursor, err := q.pod.Watch(ctx, changes)
	if err == nil {
		defer cursor.Close()
	}
	for enough := false; err == nil && !enough; {
		var response *kvv1.WatchResponse
		if response, err = cursor.Next(ctx); err == nil {
			enough, err = see(response)
		}
	}
	if compacted(err) {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return q.pod.fail(ctx, err)
}

// leave gives up a place, unless it is another's by now.
func (q *queue) leave(ctx context.Context, p *place) (*pb.ResponseHeader, error) {
	response, err := q.kv.Txn(ctx, &pb.TxnRequest{
		Compare: createdAt(p.key, p.revision),
		Success: []*pb.RequestOp{remove(p.key)},
	})
	return response.GetHeader(), err
}

func (q *queue) get(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	return q.kv.Range(ctx, req)
}

// oldest and newest ask for the key of a queue that was created first or last.
func oldest(name []byte) *pb.RangeRequest {
	from := fmt.Appendf(nil, "%s/", name)
	return &pb.RangeRequest{
		Key: from, RangeEnd: fmt.Appendf(nil, "%s0", name), // '0' comes after '/'.
		SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND, Limit: 1,
	}
}

func newest(name []byte) *pb.RangeRequest {
	req := oldest(name)
	req.SortOrder = pb.RangeRequest_DESCEND
	return req
}

func createdAt(key []byte, revision int64) []*pb.Compare {
	return []*pb.Compare{{
		Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: revision},
	}}
}

func put(key, value []byte, lease int64) *pb.RequestOp {
	req := &pb.PutRequest{Key: key, Value: value, Lease: lease}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: req}}
}

func remove(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
}

func get(req *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: req}}
}
