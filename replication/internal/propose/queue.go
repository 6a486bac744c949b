package propose

import (
	"sync"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

const (
	// maxQueued and maxQueuedBytes bound what waits: at 100,000 small commands
	// a second the count is 160 ms of work; more waiting helps nobody.
	maxQueued      = 16384
	maxQueuedBytes = 64 << 20
)

// errNotProposed is returned inside the package for a command that certainly
// did not reach the log, and may be proposed again elsewhere.
var errNotProposed error = &refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_NO_MASTER, Message: "not proposed"}

// Pending is a command under way. It is answered exactly once, by whoever has
// taken it from a queue, or by the queue.
type Pending struct {
	command *kvv1.Command
	size    int
	encoded *[]byte // length and message, pooled; only on the master
	id      uint64  // on a forwarding stream

	result *kvv1.Result
	index  uint64 // the entry that the command was applied with
	err    error
	// done gets a token when result and err are set; nil when sink is called instead.
	done chan struct{}
	sink func(*Pending)

	queued bool // guarded by the queue's mutex
}

func (p *Pending) answer(result *kvv1.Result, err error) {
	p.result, p.err = result, err
	if p.sink != nil {
		p.sink(p)
		return
	}
	p.done <- struct{}{}
}

// isForwarded says that the caller is on another pod.
func (p *Pending) isForwarded() bool { return p.sink != nil }

// queue is a bounded list of commands with one taker.
type queue struct {
	wake chan struct{} // has a token when there may be something to take

	mu     sync.Mutex // guards the fields below
	items  []*Pending
	bytes  int
	closed error
}

func newQueue() *queue {
	return &queue{wake: make(chan struct{}, 1)}
}

// push appends p, or refuses at once. After an error p is the caller's.
func (q *queue) push(p *Pending) error {
	q.mu.Lock()
	if q.closed != nil {
		defer q.mu.Unlock()
		return q.closed
	}
	if len(q.items) >= maxQueued || q.bytes+p.size > maxQueuedBytes {
		q.mu.Unlock()
		return replication.ErrOverloaded
	}
	p.queued = true
	q.items = append(q.items, p)
	q.bytes += p.size
	q.mu.Unlock()
	q.signal()
	return nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take moves up to count commands of together up to bytes (at least one) to into.
func (q *queue) take(into []*Pending, count, bytes int) []*Pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for size := 0; n < len(q.items) && n < count; n++ {
		size += q.items[n].size
		if size > bytes && n > 0 {
			break
		}
	}
	for _, p := range q.items[:n] {
		p.queued = false
		q.bytes -= p.size
	}
	into = append(into, q.items[:n]...)
	rest := copy(q.items, q.items[n:])
	clear(q.items[rest:])
	q.items = q.items[:rest]
	if rest > 0 {
		q.signal()
	}
	return into
}

// remove takes p back, unless it was taken.
func (q *queue) remove(p *Pending) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !p.queued {
		return false
	}
	for i, other := range q.items {
		if other == p {
			q.items = append(q.items[:i], q.items[i+1:]...)
			break
		}
	}
	p.queued = false
	q.bytes -= p.size
	return true
}

func (q *queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// drain answers all that waits with err; with shut also all that comes later.
func (q *queue) drain(err error, shut bool) {
	q.mu.Lock()
	items := q.items
	q.items, q.bytes = nil, 0
	for _, p := range items {
		p.queued = false
	}
	if shut && q.closed == nil {
		q.closed = err
	}
	q.mu.Unlock()
	for _, p := range items {
		p.answer(nil, err)
	}
}
