package client

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	encproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// The messages of the Batch stream are written and read by hand, so that a put
// costs an append to its batch's bytes instead of four objects, and an answer
// to it nothing at all. A test holds this file against the generated code.

// Field numbers of kv.proto.
const (
	fieldBatchRequestID     = 1
	fieldBatchRequestBatch  = 2
	fieldBatchWrites        = 1
	fieldBatchRequestIDOf   = 2
	fieldWritePut           = 1
	fieldPutKey             = 1
	fieldPutValue           = 2
	fieldPutLease           = 3
	fieldPutPrevKV          = 4
	fieldPutIgnoreValue     = 5
	fieldPutIgnoreLease     = 6
	fieldResponseID         = 1
	fieldResponseResult     = 2
	fieldResponseError      = 3
	fieldBatchResultHeader  = 1
	fieldBatchResultResults = 2
	fieldResultRevision     = 1
)

func sizeBytes(n int) int {
	return 1 + protowire.SizeBytes(n) // every field number here is below 16
}

// putSize is the size of a PutRequest.
func putSize(key string, value []byte, o writeOptions) int {
	n := sizeBytes(len(key))
	if len(value) > 0 {
		n += sizeBytes(len(value))
	}
	if o.lease != 0 {
		n += 1 + protowire.SizeVarint(uint64(o.lease))
	}
	for _, set := range [...]bool{o.prevKV, o.keepValue, o.keepLease} {
		if set {
			n += 2
		}
	}
	return n
}

// appendPut appends a put as one of WriteBatch.writes; size is its putSize.
func appendPut(b []byte, key string, value []byte, o writeOptions, size int) []byte {
	b = protowire.AppendTag(b, fieldBatchWrites, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(sizeBytes(size)))
	b = protowire.AppendTag(b, fieldWritePut, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = protowire.AppendTag(b, fieldPutKey, protowire.BytesType)
	b = protowire.AppendString(b, key)
	if len(value) > 0 {
		b = protowire.AppendTag(b, fieldPutValue, protowire.BytesType)
		b = protowire.AppendBytes(b, value)
	}
	if o.lease != 0 {
		b = protowire.AppendTag(b, fieldPutLease, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(o.lease))
	}
	b = appendBool(b, fieldPutPrevKV, o.prevKV)
	b = appendBool(b, fieldPutIgnoreValue, o.keepValue)
	return appendBool(b, fieldPutIgnoreLease, o.keepLease)
}

func appendBool(b []byte, field protowire.Number, value bool) []byte {
	if !value {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), 1)
}

// appendWrite appends any other write.
func appendWrite(b []byte, w *kvv1.Write, size int) ([]byte, error) {
	b = protowire.AppendTag(b, fieldBatchWrites, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, w)
}

// frame gives the BatchRequest of a batch, around its writes without copying
// them.
func frame(id uint64, writes []byte, request *kvv1.RequestId) mem.BufferSlice {
	tail := protowire.AppendTag(make([]byte, 0, 64), fieldBatchRequestIDOf, protowire.BytesType)
	tail = protowire.AppendVarint(tail, uint64(proto.Size(request)))
	// Two numbers and bytes: this cannot fail.
	tail, _ = proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(tail, request)
	head := protowire.AppendTag(make([]byte, 0, 24), fieldBatchRequestID, protowire.VarintType)
	head = protowire.AppendVarint(head, id)
	head = protowire.AppendTag(head, fieldBatchRequestBatch, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(writes)+len(tail)))
	return mem.BufferSlice{mem.SliceBuffer(head), mem.SliceBuffer(writes), mem.SliceBuffer(tail)}
}

// answer is a BatchResponse, read only as far as its batch is found.
type answer struct {
	id uint64
	// One of the two: the bytes of a WriteBatchResult, or an error.
	result []byte
	err    *kvv1.Error
}

var errAnswer = errors.New("the answer to a batch cannot be read")

// fields calls do for each field of a message.
func fields(b []byte, do func(field protowire.Number, number uint64, bytes []byte) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errAnswer
		}
		b = b[n:]
		var number uint64
		var bytes []byte
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return errAnswer
		}
		if err := do(field, number, bytes); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (a *answer) unmarshal(b []byte) error {
	return fields(b, func(field protowire.Number, number uint64, bytes []byte) error {
		switch field {
		case fieldResponseID:
			a.id = number
		case fieldResponseResult:
			a.result = bytes
		case fieldResponseError:
			a.err = &kvv1.Error{}
			return proto.Unmarshal(bytes, a.err)
		}
		return nil
	})
}

// results reads the WriteBatchResult: observe gets the header's revision, each
// the bytes of every WriteResult in turn.
func (a *answer) results(observe func(int64), each func(result []byte) error) error {
	return fields(a.result, func(field protowire.Number, _ uint64, bytes []byte) error {
		switch field {
		case fieldBatchResultHeader:
			var header kvv1.ResponseHeader
			if err := proto.Unmarshal(bytes, &header); err != nil {
				return err
			}
			observe(header.GetRevision())
		case fieldBatchResultResults:
			return each(bytes)
		}
		return nil
	})
}

// onlyRevision reads a WriteResult that says nothing but its revision, as the
// result of a plain put does; false when there is more in it.
func onlyRevision(b []byte) (int64, bool) {
	if len(b) == 0 {
		return 0, true
	}
	if b[0] != fieldResultRevision<<3|byte(protowire.VarintType) {
		return 0, false
	}
	revision, n := protowire.ConsumeVarint(b[1:])
	return int64(revision), n > 0 && n == len(b)-1
}

// batchCodec sends frames as they are and keeps answers as bytes. To the server
// it is the ordinary codec.
type batchCodec struct{}

var _ encoding.CodecV2 = batchCodec{}

func (batchCodec) Name() string { return encproto.Name }

func (batchCodec) Marshal(v any) (mem.BufferSlice, error) {
	if frame, ok := v.(mem.BufferSlice); ok {
		return frame, nil
	}
	return nil, fmt.Errorf("a batch stream cannot send %T", v)
}

func (batchCodec) Unmarshal(data mem.BufferSlice, v any) error {
	a, ok := v.(*answer)
	if !ok {
		return fmt.Errorf("a batch stream cannot receive %T", v)
	}
	*a = answer{}
	return a.unmarshal(data.Materialize())
}
