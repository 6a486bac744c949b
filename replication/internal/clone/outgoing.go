package clone

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/sleep"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/raftio"
)

const (
	// keptChunks are what a receiver may not have got of a connection that is cut:
	// more than callWindow.
	keptChunks = 32
	// parkFor is how long a clone that was cut can be resumed. It holds a read
	// transaction, which keeps old pages of the database from being used again.
	parkFor = 15 * time.Second
	// busyRate is what a pod sends at most while it applies writes: half of what
	// an ordinary volume reads. An idle pod sends as fast as it can.
	busyRate = 64 << 20
	// busyFor is how long after a write a pod counts as busy.
	busyFor = 100 * time.Millisecond
	// applyBacklog, in entries, or proposeBacklog, in commands, make a clone wait:
	// the writes come first.
	applyBacklog, proposeBacklog = 256, 1024
	backlogPause                 = 5 * time.Millisecond
	// backlogPatience bounds the wait for each chunk, so that a clone from a pod
	// that is always behind ends as well.
	backlogPatience = 200 * time.Millisecond
)

// outgoing is a database on its way to another pod.
type outgoing struct {
	id   string
	snap replication.Snapshot
	// sent is where the stream is; kept are its last chunks, up to there.
	sent int64
	kept [][]byte
}

// Meter counts what a Sender sends, in bytes, and waits, in seconds.
type Meter struct{ Sent, Waited prometheus.Counter }

// Sender sends the database to other pods. It keeps the one clone that was
// cut last.
type Sender struct {
	Replica *raftio.Replica
	Queued  func() int // commands that wait to be proposed
	Meter   Meter

	mu     sync.Mutex // guards the fields below
	parked *outgoing
	expiry *time.Timer
	closed bool
}

// park keeps a clone for a while; the one that was kept before ends.
func (c *Sender) park(o *outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked()
	if c.closed {
		o.snap.Close()
		return
	}
	c.parked = o
	c.expiry = time.AfterFunc(parkFor, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.parked == o {
			c.dropLocked()
		}
	})
}

func (c *Sender) dropLocked() {
	if c.parked != nil {
		c.expiry.Stop()
		c.parked.snap.Close()
		c.parked = nil
	}
}

// Close ends what is kept.
func (c *Sender) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.dropLocked()
}

// take gives a kept clone out again, if its stream still has what follows offset.
func (c *Sender) take(id string, offset int64) *outgoing {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parked == nil || c.parked.id != id || !c.parked.has(offset) {
		return nil
	}
	o := c.parked
	c.expiry.Stop()
	c.parked = nil
	return o
}

func (o *outgoing) has(offset int64) bool {
	first := o.sent
	for _, chunk := range o.kept {
		first -= int64(len(chunk))
	}
	return offset >= first && offset <= o.sent
}

// since are the kept bytes after offset, in chunks.
func (o *outgoing) since(offset int64) [][]byte {
	var chunks [][]byte
	at := o.sent
	for i := len(o.kept) - 1; i >= 0 && at > offset; i-- {
		chunk := o.kept[i]
		at -= int64(len(chunk))
		chunks = append([][]byte{chunk[max(0, offset-at):]}, chunks...)
	}
	return chunks
}

// next reads a chunk and keeps it.
func (o *outgoing) next() ([]byte, error) {
	var chunk []byte
	if len(o.kept) == keptChunks {
		chunk = o.kept[0][:0]
		o.kept = append(o.kept[:0], o.kept[1:]...)
	}
	if cap(chunk) < chunkBytes {
		chunk = make([]byte, chunkBytes)
	}
	n, err := io.ReadFull(o.snap, chunk[:chunkBytes])
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	if n == 0 {
		return nil, err
	}
	o.kept = append(o.kept, chunk[:n])
	o.sent += int64(n)
	return chunk[:n], err
}

// Serve answers a request for a clone: the database as it is on disk.
func (c *Sender) Serve(req *peerv1.CloneRequest, stream grpc.ServerStreamingServer[peerv1.CloneResponse]) error {
	o, err := c.outgoing(stream.Context(), req)
	if err != nil {
		return err
	}
	if err := c.send(o, req.GetOffset(), stream); err != nil {
		c.park(o)
		return status.Error(codes.Unavailable, err.Error())
	}
	o.snap.Close()
	return nil
}

// outgoing is the clone that a pod asks for: a new one, or one that was cut.
func (c *Sender) outgoing(ctx context.Context, req *peerv1.CloneRequest) (*outgoing, error) {
	if req.GetCloneId() != "" {
		o := c.take(req.GetCloneId(), req.GetOffset())
		if o == nil {
			return nil, status.Error(codes.FailedPrecondition, "the clone cannot be resumed any more: begin again")
		}
		return o, nil
	}
	sm := c.Replica.Storage.Sm
	if err := sm.Flush(ctx, sm.Applied()); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	snap, err := sm.Snapshot()
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &outgoing{id: uuid.NewString(), snap: snap}, nil
}

// send sends a clone from offset to its end.
func (c *Sender) send(o *outgoing, offset int64, stream grpc.ServerStreamingServer[peerv1.CloneResponse]) error {
	put := func(chunk []byte) error {
		c.Meter.Sent.Add(float64(len(chunk)))
		return stream.Send(&peerv1.CloneResponse{CloneId: o.id, TotalBytes: o.snap.Size(), Chunk: chunk})
	}
	for _, chunk := range o.since(offset) {
		if err := put(chunk); err != nil {
			return err
		}
	}
	pace := &pace{behind: c.behind, index: c.Replica.Applied.Value.Load}
	pace.applied = pace.index()
	for {
		waited := pace.wait(stream.Context())
		c.Meter.Waited.Add(waited.Seconds())
		chunk, err := o.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := put(chunk); err != nil {
			return err
		}
	}
}

// behind says whether the writes wait already.
func (c *Sender) behind() bool {
	return c.Replica.Raft.CommitIndex() > c.Replica.Applied.Value.Load()+applyBacklog || c.Queued() > proposeBacklog
}

// pace holds a clone back while its source has writes to apply.
type pace struct {
	behind  func() bool   // the writes wait
	index   func() uint64 // what is applied
	applied uint64        // at the chunk before
	wrote   time.Time     // when that had grown
	due     time.Time     // when the next chunk may be sent, of a busy pod
}

// wait returns when the next chunk may be sent.
func (p *pace) wait(ctx context.Context) (waited time.Duration) {
	began := time.Now()
	for p.behind() && time.Since(began) < backlogPatience && ctx.Err() == nil {
		sleep.For(ctx, backlogPause)
	}
	now := time.Now()
	if applied := p.index(); applied != p.applied {
		p.applied, p.wrote = applied, now
	}
	if now.Sub(p.wrote) > busyFor {
		p.due = now
		return now.Sub(began)
	}
	if p.due.After(now) {
		sleep.For(ctx, p.due.Sub(now))
	}
	// From when it was due: what a sleep was too long is made good.
	p.due = latest(p.due, now.Add(-busyFor)).Add(chunkBytes * time.Second / busyRate)
	return time.Since(began)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
