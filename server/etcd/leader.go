package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

const (
	// leaderless is how long a stream that needs a leader outlives the last one:
	// three of etcd's election timeouts. A new stream costs much more than a
	// refused call, and an election takes about a second.
	leaderless = 3 * time.Second
	// leaderInterval is how often the streams look for one.
	leaderInterval = leaderless / 6
	// leaderPoll is how often a new stream does.
	leaderPoll = 20 * time.Millisecond
)

// leaderCheck registers services whose calls may say that they need a leader
// (clientv3.WithRequireLeader): they fail when this pod knows no master, and
// streams end when it has known none for long.
type leaderCheck struct {
	registrar grpc.ServiceRegistrar
	pod       *pod

	mu      sync.Mutex // guards the fields below
	streams map[*leaderStream]struct{}
	looking bool // The goroutine that looks for a leader runs.
}

// leaderStream is a stream that needs a leader.
type leaderStream struct {
	grpc.ServerStream
	ctx context.Context
	end context.CancelCauseFunc
}

func (s *leaderStream) Context() context.Context { return s.ctx }

func newLeaderCheck(registrar grpc.ServiceRegistrar, p *pod) *leaderCheck {
	return &leaderCheck{registrar: registrar, pod: p, streams: map[*leaderStream]struct{}{}}
}

// RegisterService makes leaderCheck a grpc.ServiceRegistrar.
func (c *leaderCheck) RegisterService(desc *grpc.ServiceDesc, service any) {
	checked := *desc
	checked.Methods, checked.Streams = nil, nil
	for _, m := range desc.Methods {
		handle := m.Handler
		m.Handler = func(service any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			if needsLeader(ctx) && !c.hasLeader() {
				return nil, c.missing(ctx)
			}
			return handle(service, ctx, decode, interceptor)
		}
		checked.Methods = append(checked.Methods, m)
	}
	for _, s := range desc.Streams {
		handle := s.Handler
		s.Handler = func(service any, stream grpc.ServerStream) error {
			if needsLeader(stream.Context()) {
				return c.guard(stream, func(stream grpc.ServerStream) error { return handle(service, stream) })
			}
			return handle(service, stream)
		}
		checked.Streams = append(checked.Streams, s)
	}
	c.registrar.RegisterService(&checked, service)
}

// needsLeader does not copy the metadata, as every call comes through here.
func needsLeader(ctx context.Context) bool {
	values := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	return len(values) > 0 && values[0] == rpctypes.MetadataHasLeader
}

func (c *leaderCheck) hasLeader() bool {
	log, err := c.pod.Log()
	if err != nil {
		return false
	}
	_, ok := log.Master()
	return ok
}

// missing returns the error of a pod that knows no leader. If that is because the
// pod is not ready, the error makes clients try another pod.
func (c *leaderCheck) missing(ctx context.Context) error {
	if _, err := c.pod.Read(ctx, local); err != nil {
		return c.pod.fail(ctx, err)
	}
	return rpctypes.ErrGRPCNoLeader
}

// await gives a new stream as long to find a leader as an old one has to find the
// next: clients give up a watch for good when there is none, and the clients of a
// leader that was killed come here while the next one is elected.
func (c *leaderCheck) await(ctx context.Context) error {
	tick := time.NewTicker(leaderPoll)
	defer tick.Stop()
	for end := time.Now().Add(leaderless); !c.hasLeader(); {
		err := c.missing(ctx)
		if time.Now().After(end) || !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return c.pod.fail(ctx, ctx.Err())
		}
	}
	return nil
}

// guard runs a stream for as long as there is a leader.
func (c *leaderCheck) guard(stream grpc.ServerStream, handle func(grpc.ServerStream) error) error {
	if err := c.await(stream.Context()); err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	guarded := &leaderStream{ServerStream: stream, ctx: ctx, end: end}
	c.add(guarded)
	defer c.remove(guarded)
	err := handle(guarded)
	if errors.Is(context.Cause(ctx), rpctypes.ErrGRPCNoLeader) {
		return rpctypes.ErrGRPCNoLeader
	}
	return err
}

// add starts the one goroutine that looks for a leader with the first stream.
func (c *leaderCheck) add(s *leaderStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams[s] = struct{}{}
	if !c.looking {
		c.looking = true
		c.pod.Go(c.look)
	}
}

func (c *leaderCheck) remove(s *leaderStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, s)
}

// look returns when there are no streams any more, or when the pod stops.
func (c *leaderCheck) look() {
	ctx, release := c.pod.StreamContext(context.Background())
	defer release()
	tick := time.NewTicker(leaderInterval)
	defer tick.Stop()
	for seen := time.Now(); ctx.Err() == nil; {
		if c.hasLeader() {
			seen = time.Now()
		}
		c.mu.Lock()
		if time.Since(seen) >= leaderless {
			for s := range c.streams {
				s.end(rpctypes.ErrGRPCNoLeader)
			}
			clear(c.streams)
		}
		c.looking = len(c.streams) > 0
		over := !c.looking
		c.mu.Unlock()
		if over {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
