package propose

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/entry"
	"github.com/batondb/baton/replication/internal/raftio"
)

const (
	// maxInFlight is how many entries are under way at once: one on this
	// disk, one on the followers', one being applied. With more, the entries
	// get smaller and nothing gets faster.
	maxInFlight = 3
	// maxEntryCommands and maxEntryBytes bound an entry, and so the time that
	// it holds up the others on the disk and on the wire.
	maxEntryCommands = 4096
	maxEntryBytes    = 1 << 20
)

// proposer gathers commands into log entries on the master. While no entry is
// in flight a command goes at once; what arrives while all are is the next entry.
type proposer struct {
	replica *raftio.Replica
	Queue   *queue
	meter   Meter
	// slots has a token for each entry in flight.
	slots    chan struct{}
	inflight chan inflight
	answered chan struct{} // closed when finish has returned

	// batches are recycled.
	batches sync.Pool
}

// Meter counts what a proposer does.
type Meter struct{ Commands, Entries, Refused prometheus.Counter }

type inflight struct {
	future raft.ApplyFuture
	items  *[]*Pending
}

var (
	pendings = sync.Pool{New: func() any { return &Pending{done: make(chan struct{}, 1)} }}
	// forwarded are those without a channel: their answers go to a sink.
	forwarded = sync.Pool{New: func() any { return new(Pending) }}
	buffers   = sync.Pool{New: func() any { return new([]byte) }}
)

func newProposer(r *raftio.Replica, m Meter) *proposer {
	p := &proposer{
		replica: r, meter: m, Queue: newQueue(),
		slots:    make(chan struct{}, maxInFlight),
		inflight: make(chan inflight, maxInFlight), answered: make(chan struct{}),
		batches: sync.Pool{New: func() any { return new([]*Pending) }},
	}
	go p.finish() // close waits for it
	return p
}

// propose puts c into the log. errNotProposed: it certainly is not there.
func (p *proposer) propose(ctx context.Context, c *kvv1.Command) (*kvv1.Result, error) {
	item := pendings.Get().(*Pending)
	if err := p.enqueue(item, c); err != nil {
		item.release()
		return nil, err
	}
	result, _, err := item.await(ctx, p.Queue)
	return result, err
}

// enqueue encodes c, in the caller's goroutine, and queues it. It refuses what a pod of
// this version does not know: each pod would skip it, until one that does know it
// applies it, now or when it reads its log again.
func (p *proposer) enqueue(item *Pending, c *kvv1.Command) error {
	buf := buffers.Get().(*[]byte)
	b, err := entry.AppendCommand((*buf)[:0], c)
	if err != nil {
		buffers.Put(buf)
		return fmt.Errorf("encode the command: %w", err)
	}
	*buf = b
	if err := entry.CheckEncoded(b); err != nil {
		buffers.Put(buf)
		return &refusal.Error{Reason: kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST, Message: err.Error()}
	}
	item.encoded, item.size = buf, len(b)
	if err := p.Queue.push(item); err != nil {
		p.meter.Refused.Inc()
		return err
	}
	return nil
}

// await waits for the answer, and returns the entry that it is of. A pending whose answer was not waited for is
// left to the garbage collector: its answer may still come.
func (p *Pending) await(ctx context.Context, q *queue) (*kvv1.Result, uint64, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		if q.remove(p) {
			p.release()
			return nil, 0, fmt.Errorf("not applied: %w", ctx.Err())
		}
		select {
		case <-p.done:
		default:
			return nil, 0, fmt.Errorf("%w: %w", replication.ErrUnknown, ctx.Err())
		}
	}
	result, index, err := p.result, p.index, p.err
	p.release()
	return result, index, err
}

// release recycles an answered or never queued pending.
func (p *Pending) release() {
	p.recycleBuffer()
	done := p.done
	*p = Pending{done: done}
	if done != nil {
		pendings.Put(p)
	} else {
		forwarded.Put(p)
	}
}

func (p *Pending) recycleBuffer() {
	if p.encoded != nil {
		if cap(*p.encoded) <= 64<<10 { // a rare large one is not kept
			buffers.Put(p.encoded)
		}
		p.encoded = nil
	}
}

// run makes entries until ctx ends.
func (p *proposer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.Queue.wake:
		}
		select {
		case <-ctx.Done():
			return
		case p.slots <- struct{}{}:
		}
		if !p.submit() {
			<-p.slots
		}
	}
}

func (p *proposer) submit() bool {
	batch := p.batches.Get().(*[]*Pending)
	*batch = p.Queue.take((*batch)[:0], maxEntryCommands, maxEntryBytes)
	if len(*batch) == 0 {
		p.batches.Put(batch)
		return false
	}
	size := 1
	for _, item := range *batch {
		size += item.size
	}
	data := make([]byte, 1, size)
	data[0] = entry.Version
	for _, item := range *batch {
		data = append(data, *item.encoded...)
		item.recycleBuffer()
	}
	p.meter.Entries.Inc()
	p.meter.Commands.Add(float64(len(*batch)))
	// Without a timeout: a wait for the disk of the log bounds itself, by
	// filling the queue.
	future := p.replica.Raft.ApplyLog(raft.Log{Data: data, Extensions: entry.Checksum(data)}, 0)
	p.inflight <- inflight{future, batch}
	return true
}

// close returns when what run has proposed is answered. Run has ended, and so has
// Raft: nothing is in flight for ever.
func (p *proposer) close() {
	close(p.inflight)
	<-p.answered
}

// finish answers what run has proposed, until the channel is closed.
func (p *proposer) finish() {
	defer close(p.answered)
	for f := range p.inflight {
		results, err := p.outcome(f.future)
		if err == nil && len(results) != len(*f.items) {
			err = fmt.Errorf("%w: %d results for %d commands", replication.ErrUnknown, len(results), len(*f.items))
		}
		<-p.slots
		if err == nil && slices.ContainsFunc(*f.items, (*Pending).isForwarded) {
			p.replica.Transport.Awaited.Advance(f.future.Index())
		}
		for i, item := range *f.items {
			if err != nil {
				item.answer(nil, err)
			} else {
				item.index = f.future.Index()
				item.answer(results[i], nil)
			}
		}
		clear(*f.items)
		p.batches.Put(f.items)
	}
}

// outcome waits for an entry. Only errors that the library gives before it
// appends mean that nothing was applied; a failed disk may have kept the entry.
func (p *proposer) outcome(f raft.ApplyFuture) ([]*kvv1.Result, error) {
	err := p.replica.Await(f)
	switch {
	case err == nil:
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return nil, errNotProposed
	default:
		return nil, fmt.Errorf("%w: %v", replication.ErrUnknown, err)
	}
	switch r := f.Response().(type) {
	case []*kvv1.Result:
		return r, nil
	case error:
		return nil, fmt.Errorf("%w: %v", replication.ErrUnknown, r)
	default:
		return nil, fmt.Errorf("%w: the state machine gave no result", replication.ErrUnknown)
	}
}

// Pause returns when no entry is in flight, and keeps it so until resume.
func (p *proposer) Pause(ctx context.Context) (resume func(), err error) {
	taken := 0
	resume = func() {
		for ; taken > 0; taken-- {
			<-p.slots
		}
	}
	for taken < maxInFlight {
		select {
		case p.slots <- struct{}{}:
			taken++
		case <-ctx.Done():
			resume()
			return nil, ctx.Err()
		}
	}
	return resume, nil
}

func commandSize(c *kvv1.Command) int { return proto.Size(c) }
