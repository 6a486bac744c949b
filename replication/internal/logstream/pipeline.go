package logstream

import (
	"bufio"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// maxInFlight requests are on their way; the master sends no further ones.
	maxInFlight = 8
	// keptBuffer is the largest buffer that a pipeline keeps.
	keptBuffer = 1 << 20
)

// Pipeline sends requests to one follower, and is a raft.AppendPipeline.
type Pipeline struct {
	conn    net.Conn
	timeout time.Duration
	confirm func(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error
	answers chan raft.AppendFuture
	sent    chan *future // in the order of their answers
	closed  chan struct{}
	once    sync.Once
	buffer  []byte // of AppendEntries
}

// NewPipeline sends on conn, and closes it in the end. An answer is given out
// when confirm has returned, in a goroutine of the pipeline; its error ends the
// pipeline. So does a message that is not sent within timeout, or no answer
// within timeout of the last message.
func NewPipeline(conn net.Conn, timeout time.Duration, confirm func(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error) *Pipeline {
	p := &Pipeline{
		conn: conn, timeout: timeout, confirm: confirm,
		answers: make(chan raft.AppendFuture), sent: make(chan *future, maxInFlight), closed: make(chan struct{}),
	}
	go p.receive()
	return p
}

// AppendEntries implements raft.AppendPipeline. It must not be called by two
// goroutines at once.
func (p *Pipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f := &future{pipeline: p, start: time.Now(), req: req, resp: resp, answered: make(chan struct{})}
	// Before it is sent, so that its answer finds it.
	select {
	case p.sent <- f:
	case <-p.closed:
		return nil, raft.ErrPipelineShutdown
	}
	p.buffer = appendRequest(p.buffer[:0], req)
	p.conn.SetDeadline(f.start.Add(p.timeout))
	_, err := p.conn.Write(p.buffer)
	if cap(p.buffer) > keptBuffer {
		p.buffer = nil
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return f, nil
}

// receive gives out the answers until the pipeline or its connection ends.
func (p *Pipeline) receive() {
	defer p.Close()
	r := bufio.NewReader(p.conn)
	for {
		var resp raft.AppendEntriesResponse
		if readAnswer(r, &resp) != nil {
			return
		}
		var f *future
		select {
		case f = <-p.sent:
		default:
			return // It answers what it was not asked.
		}
		*f.resp = resp
		if p.confirm(f.req, f.resp) != nil {
			return
		}
		close(f.answered)
		select {
		case p.answers <- f:
		case <-p.closed:
			return
		}
	}
}

// Consumer implements raft.AppendPipeline.
func (p *Pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Closed is closed by Close.
func (p *Pipeline) Closed() <-chan struct{} { return p.closed }

// Close implements raft.AppendPipeline.
func (p *Pipeline) Close() error {
	p.once.Do(func() {
		close(p.closed)
		p.conn.Close()
	})
	return nil
}

// future is a raft.AppendFuture.
type future struct {
	pipeline *Pipeline
	start    time.Time
	req      *raft.AppendEntriesRequest
	resp     *raft.AppendEntriesResponse
	answered chan struct{}
}

func (f *future) Error() error {
	select {
	case <-f.answered:
		return nil
	case <-f.pipeline.closed:
		return raft.ErrPipelineShutdown
	}
}

func (f *future) Start() time.Time                      { return f.start }
func (f *future) Request() *raft.AppendEntriesRequest   { return f.req }
func (f *future) Response() *raft.AppendEntriesResponse { return f.resp }
