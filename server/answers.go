package server

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/inbound"
	"github.com/batondb/baton/internal/quota"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// An answer is in memory until its client has read it, and gRPC takes in all of a
// unary one at once. So large answers are counted, by who asked, from when they are
// built until gRPC has written them, which it shows by freeing their buffer, or until
// the connection ends.

// Answer counts what a unary call builds: see Builder. For one goroutine.
type Answer struct {
	quota *quota.Quota
	who   string
	held  int64 // Of objects, until the call has returned.

	parts mem.BufferSlice
	size  int64 // Of the parts, those included that are read later.
	taken int64 // For the parts, from the quota.
	// largest of the parts that are read later: two of them are in memory, since the end
	// of one may be sent with the beginning of the next.
	largest int64
}

type answerKey struct{}

// AnswerOf returns the answer that a call builds; nil if it counts none, which all
// methods take.
func AnswerOf(ctx context.Context) *Answer {
	answer, _ := ctx.Value(answerKey{}).(*Answer)
	return answer
}

// Hold counts bytes that are in memory until the call returns. It fails with TOO_MANY.
func (a *Answer) Hold(bytes int) error {
	if a == nil {
		return nil
	}
	if err := a.quota.Take(a.who, int64(bytes)); err != nil {
		return err
	}
	a.held += int64(bytes)
	return nil
}

// Part is some encoded fields of an answer.
type Part struct {
	Size int
	// Encode makes them of what is in memory.
	Encode func() []byte
	// Later returns what reads them anew when they are about to be sent: after the call
	// has returned, perhaps much later, in the goroutine that writes to the connection.
	Later func() func() ([]byte, error)
}

// Add adds a part to the end of the message that the call returns. What clients take by
// default is kept in memory; of a larger answer, the rest is read again as it is sent:
// so what nobody reads is not in memory. It fails with TOO_MANY, and with TOO_LARGE.
func (a *Answer) Add(p Part) error {
	size := int64(p.Size)
	if a.size+size > maxRangeBytes {
		return ErrAnswerTooLarge
	}
	if a.size+size <= maxUncountedBytes {
		a.parts, a.size = append(a.parts, mem.SliceBuffer(p.Encode())), a.size+size
		return nil
	}
	runtime.Gosched() // To encode a part takes as long as to read it.
	if a.largest == 0 && a.size+size <= maxAtOnceBytes && a.quota.TakeSpare(a.who, size) {
		a.parts = append(a.parts, mem.SliceBuffer(p.Encode()))
		a.taken, a.size = a.taken+size, a.size+size
		return nil
	}
	need := 2*max(0, size-a.largest) + laterBytes
	if err := a.quota.Take(a.who, need); err != nil {
		return err
	}
	a.parts, a.largest = append(a.parts, newLater(p)), max(a.largest, size)
	a.taken, a.size = a.taken+need, a.size+size
	return nil
}

// Sizes says that only the sizes of the parts that follow are needed: all of them are read
// later.
func (a *Answer) Sizes() bool { return a.largest > 0 }

// Reset drops what was added.
func (a *Answer) Reset() {
	if a.taken > 0 {
		a.quota.Give(a.who, a.taken)
	}
	*a = Answer{quota: a.quota, who: a.who, held: a.held}
}

// take makes the parts part of what is sent.
func (a *Answer) take(ctx context.Context, response any) any {
	message, ok := response.(proto.Message)
	if !ok || a.size == 0 {
		return response
	}
	sent := &counted{message: message, parts: a.parts, size: a.size, quota: a.quota, who: a.who, bytes: a.taken}
	a.parts, a.taken = nil, 0
	if sent.bytes > 0 {
		sent.stop = inbound.AfterClose(ctx, sent.give)
	}
	return sent
}

// end gives back what the call held, and what it did not answer with.
func (a *Answer) end() {
	if a.held > 0 {
		a.quota.Give(a.who, a.held)
		a.held = 0
	}
	a.Reset()
}

// counted is a large message on its way to gRPC. It is also the pool that gRPC puts
// the message's buffer into when that is written.
type counted struct {
	message proto.Message
	parts   mem.BufferSlice // To follow it.
	size    int64           // Of the parts.
	quota   *quota.Quota
	who     string
	bytes   int64 // Taken from the quota.
	stop    func() bool
	once    sync.Once
}

// counted counts a message if it is large. It fails with TOO_MANY.
func (c *core) counted(ctx context.Context, message any) (any, error) {
	m, ok := message.(proto.Message)
	if !ok || isSmall(message) {
		return message, nil // It is counted already, or need not be.
	}
	size := proto.Size(m)
	if size <= maxUncountedBytes {
		return message, nil
	}
	sent := &counted{message: m, quota: c.bounds.answers, who: whoCalls(ctx), bytes: int64(size)}
	if err := sent.quota.Take(sent.who, sent.bytes); err != nil {
		return nil, err
	}
	sent.stop = inbound.AfterClose(ctx, sent.give)
	return sent, nil
}

// isSmall knows without a look at its fields that most answers are small.
func isSmall(message any) bool {
	switch m := message.(type) {
	case *kvv1.PutResponse:
		return m.GetPrevKv() == nil
	case *kvv1.RangeResponse:
		return len(m.GetKvs()) == 0 || len(m.GetKvs()) == 1 && len(m.GetKvs()[0].GetValue()) < maxUncountedBytes/2
	}
	return false
}

// uncount gives back what a message took that was not sent.
func uncount(message any) {
	if sent, ok := message.(*counted); ok && sent.bytes > 0 {
		sent.give()
		sent.stop()
	}
}

func (c *counted) give() { c.once.Do(func() { c.quota.Give(c.who, c.bytes) }) }

// Get implements mem.BufferPool; nobody asks it.
func (c *counted) Get(length int) *[]byte {
	b := make([]byte, length)
	return &b
}

// Put implements mem.BufferPool: the last byte is written, or never will be.
func (c *counted) Put(*[]byte) { uncount(c) }

// codec is gRPC's own but for large messages.
type codec struct{}

var protoCodec = encoding.GetCodecV2("proto")

// Name implements encoding.CodecV2.
func (codec) Name() string { return protoCodec.Name() }

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, into any) error {
	if len(data) > 0 && inbound.IsRefused(data[0].ReadOnlyData()) {
		return errors.New(unfinished)
	}
	return protoCodec.Unmarshal(data, into)
}

// unfinished is in the error of a call whose message was refused before it was here:
// gRPC keeps only the text.
const unfinished = "baton: too many bytes of unfinished requests"

// refusedBefore makes such an error what it means; nil if it is another one.
func (c *core) refusedBefore(ctx context.Context, err error) error {
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), unfinished) {
		return nil
	}
	return c.bounds.arriving.Refusal(whoCalls(ctx), 1)
}

// pooledBytes: gRPC tells of no smaller buffer when it frees it.
const pooledBytes = 1 << 10

// Marshal implements encoding.CodecV2. The buffer that is written last belongs to the
// count; gRPC frees all of them in their order.
func (codec) Marshal(message any) (mem.BufferSlice, error) {
	sent, ok := message.(*counted)
	if !ok {
		return protoCodec.Marshal(message)
	}
	encoded, err := proto.Marshal(sent.message)
	if err != nil {
		uncount(sent)
		return nil, err
	}
	all := append(mem.BufferSlice{mem.SliceBuffer(encoded)}, sent.parts...)
	sent.message, sent.parts = nil, nil // sent stays until they are read.
	if sent.bytes == 0 {
		return all, nil
	}
	if last, ok := all[len(all)-1].(*later); ok {
		last.freed = func() { uncount(sent) }
		return all, nil
	}
	last := all[len(all)-1].ReadOnlyData()
	if cap(last) <= pooledBytes {
		last = slices.Grow(last, pooledBytes)
	}
	all[len(all)-1] = mem.NewBuffer(&last, sent)
	return all, nil
}

// answerIn is the message that is sent, without what follows it.
func answerIn(message any) any {
	if sent, ok := message.(*counted); ok {
		return sent.message
	}
	return message
}
