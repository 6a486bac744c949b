package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
)

const (
	keepLogEvery = 5 * time.Second
	// keepLogFor is how long the log is kept after the last request.
	keepLogFor = 10 * time.Second
	// cloneChunk is a message of a clone.
	cloneChunk      = 256 << 10
	cloneReportTick = 5 * time.Second
	// resumeWithin is how long a source that was lost is tried again: longer than
	// a cut of the network that does not matter, and then there are other sources.
	resumeWithin = 3 * time.Second
	resumePause  = 100 * time.Millisecond
)

// cloneReceiver receives the database from another pod, while the master keeps its
// log for what follows.
type cloneReceiver struct {
	opts     *Options
	logger   *slog.Logger
	member   MemberID
	conn     func(pod string) (*grpc.ClientConn, error)
	master   func(ctx context.Context) (pod string, ok bool) // asks who it is now
	progress *progress
}

// receive receives the database from the first source that gives a whole one, or
// says what is missing.
func (c *cloneReceiver) receive(ctx context.Context, master string, sources []string) (because string, err error) {
	if err := c.keepLog(ctx, master); err != nil {
		return "the master does not keep its log: " + err.Error(), nil
	}
	ctx, cancel := context.WithCancel(ctx)
	keeping := make(chan struct{})
	go func() {
		defer close(keeping)
		c.keepLogs(ctx, master)
	}()
	defer func() { cancel(); <-keeping }()
	for _, source := range sources {
		at, err := c.cloneFrom(ctx, source)
		if err == nil {
			c.logger.Info("the database was cloned", "source", source, "index", at.Index)
			return "", nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		c.logger.Warn("a clone was interrupted; the next source is tried", "source", source, "error", err)
	}
	return "no source could give a whole clone", nil
}

func (c *cloneReceiver) keepLog(ctx context.Context, master string) error {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	conn, err := c.conn(master)
	if err != nil {
		return err
	}
	_, err = peerv1.NewPeerServiceClient(conn).KeepLog(ctx, &peerv1.KeepLogRequest{MemberId: string(c.member)})
	return err
}

// keepLogs repeats the request, at whichever pod is the master.
func (c *cloneReceiver) keepLogs(ctx context.Context, master string) {
	for {
		sleep(ctx, keepLogEvery)
		if ctx.Err() != nil {
			return
		}
		if c.keepLog(ctx, master) == nil {
			continue
		}
		if m, ok := c.master(ctx); ok {
			master = m
			if err := c.keepLog(ctx, master); err != nil {
				c.logger.Debug("the master does not keep its log", "error", err)
			}
		}
	}
}

func (c *cloneReceiver) cloneFrom(ctx context.Context, source string) (Position, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(c.opts.Timing.CloneStall, func() {
		cancel(fmt.Errorf("no progress for %s", c.opts.Timing.CloneStall))
	})
	defer stall.Stop()
	conn, err := c.conn(source)
	if err != nil {
		return Position{}, err
	}
	incoming := &incomingClone{ctx: ctx, from: peerv1.NewPeerServiceClient(conn), logger: c.logger}
	if err := incoming.open(); err != nil {
		return Position{}, err
	}
	c.progress.begin(source)
	defer c.progress.end()
	at, err := c.opts.Receive(&cloneReader{
		recv: incoming.recv,
		got: func(bytes, total int64) {
			stall.Reset(c.opts.Timing.CloneStall)
			if p, due := c.progress.got(bytes, total); due {
				c.logger.Info("cloning", "source", p.Source, "bytes", p.Bytes, "total", p.Total, "bytes_per_second", p.BytesPerSecond)
			}
		},
		// What is left is this disk's work: it has no deadline.
		complete: func() { stall.Stop() },
	})
	if err == nil && (at.Index == 0 || len(at.Configuration) == 0) {
		err = errors.New("the clone has no position in the log")
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return at, err
}

// incomingClone is a stream that goes on after its connection was cut.
type incomingClone struct {
	ctx    context.Context
	from   peerv1.PeerServiceClient
	logger *slog.Logger
	stream grpc.ServerStreamingClient[peerv1.CloneResponse]
	id     string // empty until the first chunk
	bytes  int64
}

func (c *incomingClone) open() (err error) {
	c.stream, err = c.from.Clone(c.ctx, &peerv1.CloneRequest{CloneId: c.id, Offset: c.bytes})
	return err
}

func (c *incomingClone) recv() (*peerv1.CloneResponse, error) {
	m, err := c.stream.Recv()
	for cut := time.Now(); c.resumable(err) && time.Since(cut) < resumeWithin; {
		sleep(c.ctx, resumePause)
		if again := c.open(); again != nil {
			continue
		}
		next, again := c.stream.Recv()
		if again == nil || errors.Is(again, io.EOF) {
			c.logger.Info("a clone that was cut goes on", "bytes", c.bytes)
		}
		if m, err = next, again; status.Code(again) == codes.FailedPrecondition {
			break
		}
	}
	if err == nil {
		c.id = m.CloneId
		c.bytes += int64(len(m.Chunk))
	}
	return m, err
}

func (c *incomingClone) resumable(err error) bool {
	return err != nil && !errors.Is(err, io.EOF) && c.id != "" && c.ctx.Err() == nil
}

// cloneReader is a clone as a stream of bytes. It ends with io.EOF only when
// all was received.
type cloneReader struct {
	recv     func() (*peerv1.CloneResponse, error)
	got      func(bytes, total int64)
	complete func()

	rest         []byte
	bytes, total int64
	err          error
}

func (r *cloneReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err == nil {
			r.receive()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *cloneReader) receive() {
	m, err := r.recv()
	switch {
	case errors.Is(err, io.EOF) && r.bytes != r.total:
		r.err = fmt.Errorf("the clone ends after %d of %d bytes: %w", r.bytes, r.total, io.ErrUnexpectedEOF)
	case errors.Is(err, io.EOF):
		r.err = io.EOF
		r.complete()
	case err != nil:
		r.err = err
	default:
		r.rest = m.Chunk
		r.bytes += int64(len(m.Chunk))
		r.total = m.TotalBytes
		r.got(r.bytes, r.total)
	}
}

// CloneProgress is how far the receiving of a database is.
type CloneProgress struct {
	// Source is the pod that sends.
	Source         string
	Bytes, Total   int64
	BytesPerSecond int64
}

// progress is what a pod without data has to tell.
type progress struct {
	mu       sync.Mutex // guards the fields below
	because  string
	cold     bool
	clone    *CloneProgress
	began    time.Time
	reported time.Time
}

// wait notes why the pod waits, and says whether that is new.
func (p *progress) wait(because string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := p.because != because
	p.because = because
	return changed
}

func (p *progress) markCold(cold bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cold = cold
}

func (p *progress) isCold() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cold
}

func (p *progress) begin(source string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clone = &CloneProgress{Source: source}
	p.began, p.reported = time.Now(), time.Now()
}

func (p *progress) got(bytes, total int64) (now CloneProgress, due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clone.Bytes, p.clone.Total = bytes, total
	p.clone.BytesPerSecond = int64(float64(bytes) / max(time.Since(p.began).Seconds(), 1e-3))
	if due = time.Since(p.reported) > cloneReportTick; due {
		p.reported = time.Now()
	}
	return *p.clone, due
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clone = nil
}

func (p *progress) get() (because string, clone *CloneProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clone != nil {
		c := *p.clone
		clone = &c
	}
	return p.because, clone
}
