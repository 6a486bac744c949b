package etcd

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// rangePart is some keys of a range's answer, and how to read them again.
type rangePart struct {
	ctx                    context.Context // Of the call, which need not be under way any more.
	store                  *store.Store
	revision               int64
	reverse, withoutValues bool

	kvs         []*kvv1.KeyValue // nil when they are not in memory.
	size        int              // Of them, encoded.
	first, last []byte
	count       int64
}

// cut takes as many keys as a part has, and returns the others.
func (p *rangePart) cut(kvs []*kvv1.KeyValue) (rest []*kvv1.KeyValue) {
	n := 0
	for n < len(kvs) && p.size < server.AnswerPartBytes {
		p.size += encodedSize(kvs[n], p.withoutValues)
		n++
	}
	p.kvs, p.count = kvs[:n], int64(n)
	return kvs[n:]
}

// answer is the part as it is added to an answer.
func (p *rangePart) answer() server.Part {
	return server.Part{
		Size:   p.size,
		Encode: func() []byte { return appendKeyValues(make([]byte, 0, p.size), p.kvs, p.withoutValues) },
		Later: func() func() ([]byte, error) {
			// Not the keys as read: one of them may keep all others in memory.
			p.first, p.last, p.kvs = slices.Clone(p.kvs[0].GetKey()), slices.Clone(p.kvs[len(p.kvs)-1].GetKey()), nil
			return p.again
		},
	}
}

// again reads the part as it was.
func (p *rangePart) again() (encoded []byte, err error) {
	native := &kvv1.RangeRequest{
		Key: p.first, RangeEnd: after(p.last), Revision: p.revision, Limit: p.count, Reverse: p.reverse, KeysOnly: p.withoutValues,
	}
	if p.reverse {
		native.Key, native.RangeEnd = p.last, after(p.first)
	}
	err = p.store.Scan(p.ctx, native, func(_ int64, kvs []*kvv1.KeyValue) error {
		encoded = appendKeyValues(slices.Grow(encoded, p.size-len(encoded)), kvs, p.withoutValues)
		return nil
	})
	return encoded, err
}

// kvsField is the number of RangeResponse.kvs.
var kvsField = (&pb.RangeResponse{}).ProtoReflect().Descriptor().Fields().ByName("kvs").Number()

func appendKeyValues(to []byte, kvs []*kvv1.KeyValue, withoutValues bool) []byte {
	one := &mvccpb.KeyValue{}
	for _, kv := range kvs {
		convertFor(one, kv, withoutValues)
		to = protowire.AppendTag(to, kvsField, protowire.BytesType)
		to = protowire.AppendVarint(to, uint64(proto.Size(one)))
		to, _ = proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(to, one) // Bytes and numbers always encode.
	}
	return to
}

// encodedSize is what appendKeyValues appends.
func encodedSize(kv *kvv1.KeyValue, withoutValues bool) int {
	var one mvccpb.KeyValue
	convertFor(&one, kv, withoutValues)
	return protowire.SizeTag(kvsField) + protowire.SizeBytes(proto.Size(&one))
}

func convertFor(to *mvccpb.KeyValue, kv *kvv1.KeyValue, withoutValues bool) {
	convert(to, kv)
	if withoutValues {
		to.Value, to.Lease = nil, 0 // As answer does.
	}
}
