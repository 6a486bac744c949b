package clone

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

	"github.com/batondb/baton/internal/sleep"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
)

const (
	keepLogEvery = 5 * time.Second
	// keepLogTimeout bounds one request.
	keepLogTimeout = time.Second
	// KeepLogFor is how long the log is kept after the last request.
	KeepLogFor = 10 * time.Second
	// chunkBytes is a message of a clone.
	chunkBytes = 256 << 10
	reportTick = 5 * time.Second
	// resumeWithin is how long a source that was lost is tried again: longer than
	// a cut of the network that does not matter, and then there are other sources.
	resumeWithin = 3 * time.Second
	resumePause  = 100 * time.Millisecond
)

// Receiver receives the database from another pod, while the master keeps its
// log for what follows.
type Receiver struct {
	Options  *replication.Options
	Logger   *slog.Logger
	Member   replication.MemberID
	Conn     func(pod string) (*grpc.ClientConn, error)
	Master   func(ctx context.Context) (pod string, ok bool) // asks who it is now
	Progress *Progress
}

// Receive receives the database from the first source that gives a whole one, or
// says what is missing.
func (c *Receiver) Receive(ctx context.Context, master string, sources []string) (because string, err error) {
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
			c.Logger.Info("the database was cloned", "source", source, "index", at.Index)
			return "", nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		c.Logger.Warn("a clone was interrupted; the next source is tried", "source", source, "error", err)
	}
	return "no source could give a whole clone", nil
}

func (c *Receiver) keepLog(ctx context.Context, master string) error {
	ctx, cancel := context.WithTimeout(ctx, keepLogTimeout)
	defer cancel()
	conn, err := c.Conn(master)
	if err != nil {
		return err
	}
	_, err = peerv1.NewPeerServiceClient(conn).KeepLog(ctx, &peerv1.KeepLogRequest{MemberId: string(c.Member)})
	return err
}

// keepLogs repeats the request, at whichever pod is the master.
func (c *Receiver) keepLogs(ctx context.Context, master string) {
	for {
		sleep.For(ctx, keepLogEvery)
		if ctx.Err() != nil {
			return
		}
		if c.keepLog(ctx, master) == nil {
			continue
		}
		if m, ok := c.Master(ctx); ok {
			master = m
			if err := c.keepLog(ctx, master); err != nil {
				c.Logger.Debug("the master does not keep its log", "error", err)
			}
		}
	}
}

func (c *Receiver) cloneFrom(ctx context.Context, source string) (replication.Position, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(c.Options.Timing.CloneStall, func() {
		cancel(fmt.Errorf("no progress for %s", c.Options.Timing.CloneStall))
	})
	defer stall.Stop()
	conn, err := c.Conn(source)
	if err != nil {
		return replication.Position{}, err
	}
	incoming := &incoming{ctx: ctx, from: peerv1.NewPeerServiceClient(conn), logger: c.Logger}
	if err := incoming.open(); err != nil {
		return replication.Position{}, err
	}
	c.Progress.begin(source)
	defer c.Progress.end()
	at, err := c.Options.Receive(&stream{
		recv: incoming.recv,
		got: func(bytes, total int64) {
			stall.Reset(c.Options.Timing.CloneStall)
			if p, due := c.Progress.got(bytes, total); due {
				c.Logger.Info("cloning", "source", p.Source, "bytes", p.Bytes, "total", p.Total, "bytes_per_second", p.BytesPerSecond)
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

// incoming is a stream that goes on after its connection was cut.
type incoming struct {
	ctx    context.Context
	from   peerv1.PeerServiceClient
	logger *slog.Logger
	stream grpc.ServerStreamingClient[peerv1.CloneResponse]
	id     string // empty until the first chunk
	bytes  int64
}

func (c *incoming) open() (err error) {
	c.stream, err = c.from.Clone(c.ctx, &peerv1.CloneRequest{CloneId: c.id, Offset: c.bytes})
	return err
}

func (c *incoming) recv() (*peerv1.CloneResponse, error) {
	m, err := c.stream.Recv()
	for cut := time.Now(); c.resumable(err) && time.Since(cut) < resumeWithin; {
		sleep.For(c.ctx, resumePause)
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

func (c *incoming) resumable(err error) bool {
	return err != nil && !errors.Is(err, io.EOF) && c.id != "" && c.ctx.Err() == nil
}

// stream is a clone as a stream of bytes. It ends with io.EOF only when
// all was received.
type stream struct {
	recv     func() (*peerv1.CloneResponse, error)
	got      func(bytes, total int64)
	complete func()

	rest         []byte
	bytes, total int64
	err          error
}

func (r *stream) Read(p []byte) (int, error) {
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

func (r *stream) receive() {
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

// Progress is what a pod without data has to tell.
type Progress struct {
	mu       sync.Mutex // guards the fields below
	because  string
	cold     bool
	clone    *replication.CloneProgress
	began    time.Time
	reported time.Time
}

// Wait notes why the pod waits, and says whether that is new.
func (p *Progress) Wait(because string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := p.because != because
	p.because = because
	return changed
}

// MarkCold says whether the pod waits because this is a cold start.
func (p *Progress) MarkCold(cold bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cold = cold
}

// IsCold is what MarkCold said last.
func (p *Progress) IsCold() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cold
}

func (p *Progress) begin(source string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clone = &replication.CloneProgress{Source: source}
	p.began, p.reported = time.Now(), time.Now()
}

func (p *Progress) got(bytes, total int64) (now replication.CloneProgress, due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clone.Bytes, p.clone.Total = bytes, total
	p.clone.BytesPerSecond = int64(float64(bytes) / max(time.Since(p.began).Seconds(), 1e-3))
	if due = time.Since(p.reported) > reportTick; due {
		p.reported = time.Now()
	}
	return *p.clone, due
}

func (p *Progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clone = nil
}

// Get returns why the pod waits, and the clone under way; nil: there is none.
func (p *Progress) Get() (because string, clone *replication.CloneProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clone != nil {
		c := *p.clone
		clone = &c
	}
	return p.because, clone
}
