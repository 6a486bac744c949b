package etcd

import (
	"bytes"
	"context"
	"math"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// Range answers from this pod's copy of the data. etcd bounds the number of keys
// only by the limit, and so does this: an answer is held in memory as a whole, and
// counted.
func (s *kvService) Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRange(req); err != nil {
		return nil, err
	}
	st, err := s.pod.read(ctx, req.GetSerializable(), func() []*kvv1.KeyRange { return rangeOf(req) })
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	if len(req.GetRangeEnd()) > 0 {
		turn, err := s.pod.Turn(ctx, req.GetCountOnly())
		if err != nil {
			return nil, s.pod.fail(ctx, err)
		}
		defer turn.End()
	}
	for {
		response, revision, err := answer(ctx, st, req)
		if err != nil && req.GetRevision() <= 0 && compacted(err) {
			continue // A compaction overtook a read of several parts: begin anew.
		}
		if err != nil {
			return nil, s.pod.fail(ctx, err)
		}
		if req.GetRevision() > 0 {
			revision = st.Revision() // etcd's header has the newest, too.
		}
		response.Header = s.pod.header(revision)
		return response, nil
	}
}

// answer returns what a range holds, without a header, and the revision that it is of.
func answer(ctx context.Context, st *store.Store, req *pb.RangeRequest) (*pb.RangeResponse, int64, error) {
	if inOrder(req) && server.AnswerOf(ctx) != nil {
		return encodedRange(ctx, st, req)
	}
	found, err := read(ctx, st, req, max(req.GetRevision(), 0))
	if err != nil {
		return nil, 0, err
	}
	return found.answer(req), found.revision, nil
}

// inOrder says that keys are sent as they are read.
func inOrder(req *pb.RangeRequest) bool {
	return len(req.GetRangeEnd()) > 0 && !req.GetCountOnly() && !filtered(req) && (sorting(req) == nil || fromTheEnd(req))
}

// encodedRange encodes the keys of a range part by part, so that they are in memory
// once: as they are sent. Of a large range, most parts are read again when they are sent.
func encodedRange(ctx context.Context, st *store.Store, req *pb.RangeRequest) (*pb.RangeResponse, int64, error) {
	building, left := server.AnswerOf(ctx), req.GetLimit()
	if left <= 0 {
		left = math.MaxInt64
	}
	building.Reset()
	response := &pb.RangeResponse{}
	native := nativeRange(req, max(req.GetRevision(), 0))
	found, err := scan(ctx, st, req, native, building.Sizes, func(revision int64, kvs []*kvv1.KeyValue) error {
		if int64(len(kvs)) > left {
			kvs, response.More = kvs[:left], true
		}
		left -= int64(len(kvs))
		for len(kvs) > 0 {
			part := &rangePart{ctx: context.WithoutCancel(ctx), store: st, revision: revision, reverse: native.Reverse, withoutValues: withoutValues(req)}
			kvs = part.cut(kvs)
			if err := building.Add(part.answer()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	response.Count = found.count
	return response, found.revision, nil
}

func compacted(err error) bool {
	return refusal.Reason(err) == kvv1.ErrorReason_ERROR_REASON_COMPACTED
}

func freshness(serializable bool) *kvv1.ReadOptions {
	if serializable {
		return local
	}
	return nil
}

// read returns this pod's copy for reading ranges. Whoever may not read them is refused
// before the master is asked.
func (p *pod) read(ctx context.Context, serializable bool, ranges func() []*kvv1.KeyRange) (*store.Store, error) {
	if !serializable && p.Access().Enabled() {
		if err := p.MayRead(ctx, ranges()...); err != nil {
			return nil, err
		}
	}
	return p.Read(ctx, freshness(serializable))
}

func rangeOf(req *pb.RangeRequest) []*kvv1.KeyRange {
	return []*kvv1.KeyRange{{Key: req.GetKey(), RangeEnd: req.GetRangeEnd()}}
}

// keys is what a range holds at a revision: all of it, or with a limit one key more
// than that, which tells whether there are more.
type keys struct {
	revision int64
	kvs      []*kvv1.KeyValue
	count    int64 // Of all keys in the range.
}

func nativeRange(req *pb.RangeRequest, revision int64) *kvv1.RangeRequest {
	return &kvv1.RangeRequest{
		Key: req.GetKey(), RangeEnd: req.GetRangeEnd(), Revision: revision,
		KeysOnly: withoutValues(req), CountOnly: req.GetCountOnly(),
	}
}

// objectBytes of a key are what it takes in memory besides its bytes, as read and as
// converted.
const objectBytes = 320

// read reads what etcd would, for answer, at a revision (0: the newest).
func read(ctx context.Context, st *store.Store, req *pb.RangeRequest, revision int64) (*keys, error) {
	native := nativeRange(req, revision)
	if len(req.GetRangeEnd()) == 0 || req.GetCountOnly() {
		page, err := st.Range(ctx, native)
		if err != nil {
			return nil, err
		}
		return &keys{page.GetHeader().GetRevision(), page.GetKvs(), page.GetCount()}, nil
	}
	var all []*kvv1.KeyValue
	building := server.AnswerOf(ctx)
	found, err := scan(ctx, st, req, native, func() bool { return false }, func(_ int64, kvs []*kvv1.KeyValue) error {
		size := 0
		for _, kv := range kvs { // Once as they are, and once encoded.
			size += 2*(len(kv.GetKey())+len(kv.GetValue())) + objectBytes
		}
		if all == nil {
			all = kvs
		} else {
			all = append(all, kvs...)
		}
		return building.Hold(size)
	})
	if err != nil {
		return nil, err
	}
	found.kvs = all
	return found, nil
}

// scan reads a range of keys and hands them on in parts, with a limit one more than
// that; see [store.Store.ScanSizes]. When a limit cuts it off, the rest is counted. It
// returns no keys.
func scan(ctx context.Context, st *store.Store, req *pb.RangeRequest, native *kvv1.RangeRequest, sizing func() bool, emit func(revision int64, kvs []*kvv1.KeyValue) error) (*keys, error) {
	native.Limit = readLimit(req)
	native.Reverse = fromTheEnd(req)
	found := &keys{}
	var last []byte
	err := st.ScanSizes(ctx, native, sizing, func(revision int64, kvs []*kvv1.KeyValue) error {
		found.revision, found.count = revision, found.count+int64(len(kvs))
		if len(kvs) == 0 || ctx.Err() != nil { // Nobody waits for what would take seconds.
			return ctx.Err()
		}
		last = kvs[len(kvs)-1].GetKey()
		return emit(revision, kvs)
	})
	if err != nil {
		return nil, err
	}
	if native.Limit == 0 || found.count < native.Limit {
		return found, nil
	}
	rest := &kvv1.RangeRequest{Key: native.Key, RangeEnd: native.RangeEnd, Revision: found.revision, CountOnly: true}
	switch {
	case !native.Reverse:
		rest.Key = after(last)
	case bytes.Equal(last, firstKey):
		return found, nil // As the end of a range it would mean another thing.
	default:
		rest.RangeEnd = last
	}
	if empty(rest) {
		return found, nil // Its beginning may be beyond what the caller may read.
	}
	page, err := st.Range(ctx, rest)
	found.count += page.GetCount()
	return found, err
}

// firstKey is the first possible one.
var firstKey = []byte{0}

// after is the first possible key after another one.
func after(key []byte) []byte { return append(bytes.Clone(key), 0) }

// empty says that no key can be in a range that has an end.
func empty(r *kvv1.RangeRequest) bool {
	return !bytes.Equal(r.GetRangeEnd(), firstKey) && bytes.Compare(r.GetKey(), r.GetRangeEnd()) >= 0
}

// withoutValues: only a sort by value needs values that are not asked for.
func withoutValues(req *pb.RangeRequest) bool {
	return req.GetKeysOnly() && req.GetSortTarget() != pb.RangeRequest_VALUE
}

func defaultOrder(req *pb.RangeRequest) bool {
	return req.GetSortOrder() == pb.RangeRequest_NONE ||
		req.GetSortTarget() == pb.RangeRequest_KEY && req.GetSortOrder() == pb.RangeRequest_ASCEND
}

func filtered(req *pb.RangeRequest) bool {
	return req.GetMinModRevision() != 0 || req.GetMaxModRevision() != 0 ||
		req.GetMinCreateRevision() != 0 || req.GetMaxCreateRevision() != 0
}

// fromTheEnd: the last keys come first, and only they need be read.
func fromTheEnd(req *pb.RangeRequest) bool {
	return req.GetSortTarget() == pb.RangeRequest_KEY && req.GetSortOrder() == pb.RangeRequest_DESCEND && !filtered(req)
}

// readLimit is how many keys are read; 0: all, which sorting and filtering need.
// A sort without an order, which etcd takes for ascending, only sorts what the
// limit lets through, as in etcd.
func readLimit(req *pb.RangeRequest) int64 {
	if filtered(req) || !defaultOrder(req) && !fromTheEnd(req) || req.GetLimit() <= 0 || req.GetLimit() == math.MaxInt64 {
		return 0
	}
	return req.GetLimit() + 1
}

// answer filters, sorts and cuts off, in etcd's order. It has no header.
func (k *keys) answer(req *pb.RangeRequest) *pb.RangeResponse {
	kvs := k.filter(req)
	if by := sorting(req); by != nil && !fromTheEnd(req) {
		sort.Sort(by(kvs))
	}
	response := &pb.RangeResponse{Count: k.count}
	if limit := req.GetLimit(); limit > 0 && int64(len(kvs)) > limit {
		kvs, response.More = kvs[:limit], true
	}
	response.Kvs = keyValues(kvs)
	if req.GetKeysOnly() {
		for _, kv := range response.Kvs {
			kv.Value = nil
			if withoutValues(req) {
				kv.Lease = 0 // etcd takes these from its index, which has no leases.
			}
		}
	}
	return response
}

func (k *keys) filter(req *pb.RangeRequest) []*kvv1.KeyValue {
	if !filtered(req) {
		return k.kvs
	}
	var kept []*kvv1.KeyValue
	within := func(revision, least, most int64) bool {
		return (least == 0 || revision >= least) && (most == 0 || revision <= most)
	}
	for _, kv := range k.kvs {
		if within(kv.GetModRevision(), req.GetMinModRevision(), req.GetMaxModRevision()) &&
			within(kv.GetCreateRevision(), req.GetMinCreateRevision(), req.GetMaxCreateRevision()) {
			kept = append(kept, kv)
		}
	}
	return kept
}

// byField sorts with the function that etcd uses, because the order of equal keys is
// whatever that function makes it.
type byField struct {
	kvs  []*kvv1.KeyValue
	less func(a, b *kvv1.KeyValue) bool
}

func (b byField) Len() int           { return len(b.kvs) }
func (b byField) Less(i, j int) bool { return b.less(b.kvs[i], b.kvs[j]) }
func (b byField) Swap(i, j int)      { b.kvs[i], b.kvs[j] = b.kvs[j], b.kvs[i] }

var lessOf = map[pb.RangeRequest_SortTarget]func(a, b *kvv1.KeyValue) bool{
	pb.RangeRequest_KEY:     func(a, b *kvv1.KeyValue) bool { return bytes.Compare(a.GetKey(), b.GetKey()) < 0 },
	pb.RangeRequest_VERSION: func(a, b *kvv1.KeyValue) bool { return a.GetVersion() < b.GetVersion() },
	pb.RangeRequest_CREATE:  func(a, b *kvv1.KeyValue) bool { return a.GetCreateRevision() < b.GetCreateRevision() },
	pb.RangeRequest_MOD:     func(a, b *kvv1.KeyValue) bool { return a.GetModRevision() < b.GetModRevision() },
	pb.RangeRequest_VALUE:   func(a, b *kvv1.KeyValue) bool { return bytes.Compare(a.GetValue(), b.GetValue()) < 0 },
}

// sorting is nil when the keys are in the right order as they are read.
func sorting(req *pb.RangeRequest) func([]*kvv1.KeyValue) sort.Interface {
	if req.GetSortTarget() == pb.RangeRequest_KEY && req.GetSortOrder() != pb.RangeRequest_DESCEND {
		return nil
	}
	return func(kvs []*kvv1.KeyValue) sort.Interface {
		by := byField{kvs, lessOf[req.GetSortTarget()]}
		if req.GetSortOrder() == pb.RangeRequest_DESCEND {
			return sort.Reverse(by)
		}
		return by
	}
}
