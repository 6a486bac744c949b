package client

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// The server's limits are 1,024 writes and 2 MiB; one write may be 1.5 MiB, so
	// a batch is closed when it has 1 MiB unless it holds only that write.
	maxBatchWrites = 1024
	maxBatchBytes  = 1 << 20
	// maxWriteBytes bounds one write, with room for the frame around it.
	maxWriteBytes = 2<<20 - 1024
	maxKeyBytes   = 4096
	maxValueBytes = 3 << 19
	// maxWaiting bounds the batches that wait to be sent: beyond it callers wait.
	maxWaiting = 16
	// moreWaiting is the bound while callbacks run: a write that one of them makes
	// would wait for room that only the answers behind it can make.
	moreWaiting         = 4 * maxWaiting
	defaultInFlight     = 8
	maxInFlight         = 64
	defaultBatchTimeout = 30 * time.Second
)

// BatchOptions configure a [Batcher].
type BatchOptions struct {
	// InFlight is how many batches may be on their way at once; 0 means 8, the
	// most is 64. With 1 all writes are applied in the order in which they were
	// given to the Batcher (but one that ended as [ErrUnknown] may come late);
	// with more, only each caller who waits for its answers sees its own writes
	// in order.
	InFlight int
	// Timeout is how long a batch is tried; 0 means 30 s.
	Timeout time.Duration
}

// Batcher gathers many small writes into few messages over one stream: the
// fastest way to write. A lone write goes out at once; while InFlight batches
// are on their way the rest gathers, up to 1,024 writes or 1 MiB a batch. Each
// write is independent of the others and applied exactly once, also over lost
// streams and changes of master. All methods may be called from any goroutine.
type Batcher struct {
	client  *Client
	options BatchOptions
	wake    chan struct{} // something for the sender to do
	done    chan struct{} // the sender has ended

	mu sync.Mutex // guards all below, and is held for no call
	// waiting are the batches to send, oldest first: batches to repeat, then new
	// ones; the last one is open for more writes.
	waiting []*batch
	flight  map[uint64]*batch
	lastID  uint64
	// pending counts the writes without an answer.
	pending int
	turns   turns
	// resume is when to send again after a refusal.
	resume time.Time
	closed bool
	// telling counts the batches whose callers are being told.
	telling int
}

// turns are closed when there is room for a batch and when nothing is pending; nil
// while nobody waits for that.
type turns struct{ room, idle chan struct{} }

// batch is a WriteBatch on its way.
type batch struct {
	id      uint64
	body    []byte // the writes, in wire format
	writes  []pending
	request *kvv1.RequestId // nil until it is first sent
	created time.Time
	sent    time.Time
	sends   int
	unknown bool // a sending may have been applied
}

// pending is a write whose caller waits.
type pending struct {
	end  int // of its bytes in the batch's body
	kind completion
}

// completion takes the outcome of a write: exactly one of its fields is set.
type completion struct {
	wait   chan putOutcome
	put    func(revision int64, err error)
	result func(*kvv1.WriteResult, error)
}

type putOutcome struct {
	revision int64
	err      error
}

var batches = sync.Pool{New: func() any { return &batch{} }}

// waits are used again only after their one outcome was received.
var waits = sync.Pool{New: func() any { return make(chan putOutcome, 1) }}

// NewBatcher starts a Batcher. Close it when done with it.
func (c *Client) NewBatcher(o BatchOptions) (*Batcher, error) {
	if o.InFlight < 0 || o.InFlight > maxInFlight || o.Timeout < 0 {
		return nil, invalid("BatchOptions: InFlight must be 1 to %d and Timeout not negative", maxInFlight)
	}
	if o.InFlight == 0 {
		o.InFlight = defaultInFlight
	}
	if o.Timeout == 0 {
		o.Timeout = defaultBatchTimeout
	}
	b := &Batcher{
		client: c, options: o, flight: map[uint64]*batch{},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	c.tasks.Go(b.run)
	return b, nil
}

// Put writes one key and waits for the answer, which is the revision that it
// made. When ctx ends first the write is still sent: [ErrUnknown].
func (b *Batcher) Put(ctx context.Context, key string, value []byte, options ...WriteOption) (revision int64, err error) {
	wait := waits.Get().(chan putOutcome)
	if err := b.put(ctx, key, value, options, completion{wait: wait}); err != nil {
		waits.Put(wait)
		return 0, err
	}
	select {
	case outcome := <-wait:
		waits.Put(wait)
		return outcome.revision, outcome.err
	case <-ctx.Done():
		return 0, ended(ctx, nil, true)
	}
}

// PutAsync writes one key and does not wait for the answer, only, at most until
// ctx ends, for room. done is called once if and only if PutAsync returns nil,
// on the Batcher's own goroutine: it must be quick, and not wait for another
// write. It may make some, with PutAsync or DoAsync: about as many as it was
// told of; after many more it would wait for itself, until ctx ends.
func (b *Batcher) PutAsync(ctx context.Context, key string, value []byte, done func(revision int64, err error), options ...WriteOption) error {
	return b.put(ctx, key, value, options, completion{put: done})
}

func (b *Batcher) put(ctx context.Context, key string, value []byte, options []WriteOption, kind completion) error {
	o := with[writeOptions](options)
	if err := checkPut(key, len(value)); err != nil {
		return err
	}
	size := putSize(key, value, o)
	t, err := b.gather(ctx, size+16)
	if err != nil {
		return err
	}
	t.body = appendPut(t.body, key, value, o, size)
	b.gathered(t, kind)
	return nil
}

// Do makes any write and waits for its result. A result that is an error is
// returned as an [*Error]; with [ErrResultCut] there is a result as well.
func (b *Batcher) Do(ctx context.Context, write *kvv1.Write) (*kvv1.WriteResult, error) {
	type outcome struct {
		result *kvv1.WriteResult
		err    error
	}
	wait := make(chan outcome, 1)
	err := b.DoAsync(ctx, write, func(result *kvv1.WriteResult, err error) { wait <- outcome{result, err} })
	if err != nil {
		return nil, err
	}
	select {
	case o := <-wait:
		return o.result, o.err
	case <-ctx.Done():
		return nil, ended(ctx, nil, true)
	}
}

// DoAsync is to Do as PutAsync is to Put.
func (b *Batcher) DoAsync(ctx context.Context, write *kvv1.Write, done func(*kvv1.WriteResult, error)) error {
	if put := write.GetPut(); put != nil {
		if err := checkPut(string(put.GetKey()), len(put.GetValue())); err != nil {
			return err
		}
	}
	// The write is encoded here, outside the lock, and copied under it.
	encoded, err := appendWrite(nil, write, proto.Size(write))
	if err != nil {
		return invalid("the write cannot be encoded: %v", err)
	}
	if len(encoded) > maxWriteBytes {
		return tooLarge("write", maxWriteBytes, len(encoded))
	}
	t, err := b.gather(ctx, len(encoded))
	if err != nil {
		return err
	}
	t.body = append(t.body, encoded...)
	b.gathered(t, completion{result: done})
	return nil
}

// gather gives the batch to append a write of about size bytes to, with the
// lock held; gathered gives the lock back.
func (b *Batcher) gather(ctx context.Context, size int) (*batch, error) {
	b.mu.Lock()
	for {
		if b.closed {
			b.mu.Unlock()
			return nil, closedError()
		}
		if n := len(b.waiting); n > 0 {
			t := b.waiting[n-1]
			if t.sends == 0 && len(t.writes) < maxBatchWrites && len(t.body)+size <= maxBatchBytes {
				return t, nil
			}
		}
		if len(b.waiting) < b.bound() {
			t := batches.Get().(*batch)
			t.created = time.Now()
			b.waiting = append(b.waiting, t)
			return t, nil
		}
		if b.turns.room == nil {
			b.turns.room = make(chan struct{})
		}
		room := b.turns.room
		b.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return nil, ended(ctx, nil, false)
		case <-b.client.ctx.Done(): // nobody makes room any more
			return nil, closedError()
		}
		b.mu.Lock()
	}
}

// bound is how many batches may wait to be sent. The lock is held.
func (b *Batcher) bound() int {
	if b.telling > 0 {
		return moreWaiting
	}
	return maxWaiting
}

func (b *Batcher) gathered(t *batch, kind completion) {
	t.writes = append(t.writes, pending{end: len(t.body), kind: kind})
	b.pending++
	send := len(b.flight) < b.options.InFlight
	b.mu.Unlock()
	if send {
		b.signal()
	}
}

func (b *Batcher) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Flush waits until every write given so far has its answer.
func (b *Batcher) Flush(ctx context.Context) error {
	b.mu.Lock()
	if b.pending == 0 {
		b.mu.Unlock()
		return nil
	}
	if b.turns.idle == nil {
		b.turns.idle = make(chan struct{})
	}
	idle := b.turns.idle
	b.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ended(ctx, nil, false)
	}
}

// Close takes no more writes, waits for the answers to those that it has (at
// most BatchOptions.Timeout), and ends the Batcher.
func (b *Batcher) Close() error {
	b.mu.Lock()
	b.closed = true
	b.free()
	b.mu.Unlock()
	b.signal()
	<-b.done
	return nil
}

// free wakes those who wait for room. The lock is held.
func (b *Batcher) free() {
	if b.turns.room != nil && (b.closed || len(b.waiting) < maxWaiting) {
		close(b.turns.room)
		b.turns.room = nil
	}
}

func checkPut(key string, value int) error {
	if key == "" {
		return invalid("a key must not be empty")
	}
	return checkPutSize(key, value)
}

func checkPutSize(key string, value int) error {
	switch {
	case len(key) > maxKeyBytes:
		return tooLarge("key", maxKeyBytes, len(key))
	case value > maxValueBytes:
		return tooLarge("value", maxValueBytes, value)
	}
	return nil
}
