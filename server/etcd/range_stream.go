package etcd

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// streamDeadline bounds the beginning of a stream, which has no deadline of its own;
// it is etcd's for any request.
const streamDeadline = 7 * time.Second

// RangeStream hands a range on in parts, all of one revision, as they are read.
// Only the last part has the header and the count.
func (s *kvService) RangeStream(req *pb.RangeRequest, out pb.KV_RangeStreamServer) error {
	if err := checkRangeStream(req); err != nil {
		return err
	}
	ctx := out.Context()
	begin, cancel := context.WithTimeout(ctx, streamDeadline)
	st, err := s.pod.read(begin, req.GetSerializable(), func() []*kvv1.KeyRange { return rangeOf(req) })
	cancel()
	if err != nil {
		return s.pod.fail(ctx, err)
	}
	turn, err := s.pod.Turn(ctx, req.GetCountOnly())
	if err != nil {
		return s.pod.fail(ctx, err)
	}
	defer turn.End()
	send := func(part *pb.RangeResponse) error { return out.Send(&pb.RangeStreamResponse{RangeResponse: part}) }
	stream := &rangeStream{store: st, req: req, send: func(part *pb.RangeResponse) error {
		return turn.Outside(ctx, func() error { return send(part) })
	}}
	last, err := stream.run(ctx)
	if err != nil {
		return s.pod.fail(ctx, err)
	}
	turn.End()
	last.Header = s.pod.header(stream.newest)
	return send(last)
}

// rangeStream is one range on its way to the client.
type rangeStream struct {
	store  *store.Store
	req    *pb.RangeRequest
	send   func(*pb.RangeResponse) error
	newest int64 // The newest revision at the beginning, whatever revision is read.
}

// run returns the last part, without a header.
func (r *rangeStream) run(ctx context.Context) (*pb.RangeResponse, error) {
	native := &kvv1.RangeRequest{
		Key: r.req.GetKey(), RangeEnd: r.req.GetRangeEnd(), Revision: max(r.req.GetRevision(), 0), KeysOnly: withoutValues(r.req),
	}
	r.newest = r.store.Revision()
	if native.Revision == 0 {
		native.Revision = r.newest
	}
	if r.req.GetCountOnly() {
		return r.count(ctx, native, &pb.RangeResponse{})
	}
	native.Limit = max(r.req.GetLimit(), 0)
	part, count, first := &keys{}, int64(0), true
	err := r.store.Scan(ctx, native, func(_ int64, kvs []*kvv1.KeyValue) error {
		if !first {
			if err := r.send(part.answer(r.req)); err != nil {
				return err
			}
		}
		part.kvs, count, first = kvs, count+int64(len(kvs)), false
		return nil
	})
	if err != nil {
		return nil, err
	}
	last := part.answer(r.req)
	last.Count = count
	if native.Limit == 0 || count < native.Limit || len(native.RangeEnd) == 0 {
		return last, nil
	}
	native.Key = after(part.kvs[len(part.kvs)-1].GetKey())
	if empty(native) {
		return last, nil
	}
	return r.count(ctx, native, last)
}

// count adds the number of keys in a range to a part.
func (r *rangeStream) count(ctx context.Context, native *kvv1.RangeRequest, part *pb.RangeResponse) (*pb.RangeResponse, error) {
	page, err := r.store.Range(ctx, &kvv1.RangeRequest{
		Key: native.Key, RangeEnd: native.RangeEnd, Revision: native.Revision, CountOnly: true,
	})
	part.More = len(part.GetKvs()) > 0 && page.GetCount() > 0
	part.Count += page.GetCount()
	return part, err
}
