package server

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server/audit"
)

// audited registers services, and notes in the audit trail how each of their calls
// ended. It stands outside of whatever else is done with a call, so that it sees
// what was refused, and what the client gets.
type audited struct {
	grpc.ServiceRegistrar
	trail *audit.Trail
}

// audit returns what services are to be registered with.
func (s *Server) audit(registrar grpc.ServiceRegistrar) grpc.ServiceRegistrar {
	if s.options.Security.Audit == nil {
		return registrar
	}
	return audited{registrar, s.options.Security.Audit}
}

// identify returns how callers are found out.
func (s *Server) identify() func(context.Context) (context.Context, error) {
	if s.options.Security.Audit == nil {
		return s.core.identify
	}
	return s.core.witnessed
}

// RegisterService implements grpc.ServiceRegistrar.
func (a audited) RegisterService(desc *grpc.ServiceDesc, service any) {
	wrapped := *desc
	wrapped.Methods, wrapped.Streams = nil, nil
	for _, m := range desc.Methods {
		m.Handler = a.unary("/"+desc.ServiceName+"/"+m.MethodName, m.Handler)
		wrapped.Methods = append(wrapped.Methods, m)
	}
	for _, s := range desc.Streams {
		s.Handler = a.stream("/"+desc.ServiceName+"/"+s.StreamName, s.Handler)
		wrapped.Streams = append(wrapped.Streams, s)
	}
	a.ServiceRegistrar.RegisterService(&wrapped, service)
}

// witness takes down who makes a call, once that is known.
type witness struct {
	mu  sync.Mutex // guards who
	who caller.Caller
}

type witnessKey struct{}

// witnessed is identify, and tells the witness of the call if there is one.
func (c *core) witnessed(ctx context.Context) (context.Context, error) {
	ctx, err := c.identify(ctx)
	if w, ok := ctx.Value(witnessKey{}).(*witness); ok {
		w.mu.Lock()
		w.who = caller.From(ctx)
		w.mu.Unlock()
	}
	return ctx, err
}

func (w *witness) call(ctx context.Context, method string, begun time.Time) audit.Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	call := audit.Call{Method: method, Who: w.who, Begun: begun}
	if from, ok := peer.FromContext(ctx); ok {
		call.From = from.Addr.String()
	}
	return call
}

func (a audited) unary(method string, handle grpc.MethodHandler) grpc.MethodHandler {
	return func(service any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		begun, w := time.Now(), &witness{}
		ctx = context.WithValue(ctx, witnessKey{}, w)
		var request any
		response, err := handle(service, ctx, func(into any) error {
			request = into
			return decode(into)
		}, interceptor)
		call := w.call(ctx, method, begun)
		call.Request, call.Response, call.Err = request, response, err
		a.trail.Note(call)
		return response, err
	}
}

func (a audited) stream(method string, handle grpc.StreamHandler) grpc.StreamHandler {
	return func(service any, stream grpc.ServerStream) error {
		w := &witness{}
		s := &auditedStream{
			ServerStream: stream, trail: a.trail, method: method, witness: w, begun: time.Now(),
			ctx: context.WithValue(stream.Context(), witnessKey{}, w), lists: map[uint64]listed{},
		}
		err := handle(service, s)
		call := w.call(s.ctx, method, s.begun)
		call.Err = err
		call.Request = s.only()
		a.trail.Note(call)
		return err
	}
}

// auditedStream notes what is asked on a stream: that a watch or a scan began, and how
// each list of writes ended. Keep-alives are not noted one by one.
type auditedStream struct {
	grpc.ServerStream
	trail   *audit.Trail
	method  string
	witness *witness
	begun   time.Time
	ctx     context.Context

	mu       sync.Mutex // guards the fields below
	requests int
	first    any
	lists    map[uint64]listed
}

// listed is a list of writes that is not answered yet.
type listed struct {
	writes *kvv1.WriteBatch
	begun  time.Time
}

func (s *auditedStream) Context() context.Context { return s.ctx }

func (s *auditedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.requests++; s.requests == 1 {
		s.first = m
	}
	if list, ok := m.(*kvv1.BatchRequest); ok {
		s.lists[list.GetId()] = listed{list.GetBatch(), time.Now()}
	}
	s.mu.Unlock()
	switch m.(type) {
	case *kvv1.BatchRequest: // It is noted when it is answered.
	case interface{ GetID() int64 }, *kvv1.KeepAliveRequest:
	default:
		call := s.witness.call(s.ctx, s.method, time.Now())
		call.Request, call.Begins = m, true
		s.trail.Note(call)
	}
	return nil
}

// only is the request of a stream that had no other; nil: it had several.
func (s *auditedStream) only() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.requests != 1 {
		return nil
	}
	return s.first
}

func (s *auditedStream) SendMsg(m any) error {
	switch response := m.(type) {
	case *kvv1.BatchResponse:
		s.mu.Lock()
		list, ok := s.lists[response.GetId()]
		delete(s.lists, response.GetId())
		s.mu.Unlock()
		if !ok { // Of two lists with one id this is the second one.
			list.begun = time.Now()
		}
		call := s.witness.call(s.ctx, s.method, list.begun)
		call.Request, call.Response = list.writes, response.GetResult()
		if e := response.GetError(); e != nil {
			call.Err = status.Error(codes.Code(e.GetCode()), e.GetMessage())
		}
		s.trail.Note(call)
	case interface{ GetCancelReason() string }:
		// etcd's watches are refused one by one, and their stream goes on.
		if strings.Contains(response.GetCancelReason(), "permission denied") {
			call := s.witness.call(s.ctx, s.method, time.Now())
			call.Err = status.Error(codes.PermissionDenied, "")
			s.trail.Note(call)
		}
	}
	return s.ServerStream.SendMsg(m)
}
