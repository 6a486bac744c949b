package server

import (
	"context"
	"maps"
	"slices"
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
		call.Request, call.Response, call.Err = request, answerIn(response), err
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
		for _, list := range s.unanswered() {
			s.note(list, nil, errUnanswered)
		}
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
	doubled  bool
}

// listed is a list of writes that is not answered yet.
type listed struct {
	writes *kvv1.WriteBatch
	begun  time.Time
}

// errUnanswered is the outcome of a list of writes of which it is not known whether it was
// made.
var errUnanswered = status.Error(codes.Unknown, "")

func (s *auditedStream) note(list listed, result any, err error) {
	call := s.witness.call(s.ctx, s.method, list.begun)
	call.Request, call.Response, call.Err = list.writes, result, err
	s.trail.Note(call)
}

// begin takes a list in until it is answered. A client that gives two of them one id
// could make it seem that the answer to one is the other's: from then on it is noted of
// each that it has begun, and of none how it ended.
func (s *auditedStream) begin(request *kvv1.BatchRequest) {
	id, list := request.GetId(), listed{request.GetBatch(), time.Now()}
	s.mu.Lock()
	before, same := s.lists[id]
	delete(s.lists, id)
	s.doubled = s.doubled || same
	if !s.doubled {
		s.lists[id] = list
	}
	doubled := s.doubled
	s.mu.Unlock()
	if same {
		s.note(before, nil, errUnanswered)
	}
	if doubled {
		s.note(list, nil, errUnanswered)
	}
}

// answered notes a list when it is answered.
func (s *auditedStream) answered(answer *kvv1.BatchResponse) {
	s.mu.Lock()
	list, ok := s.lists[answer.GetId()]
	delete(s.lists, answer.GetId())
	s.mu.Unlock()
	if !ok {
		return // It is noted already.
	}
	var err error
	if e := answer.GetError(); e != nil {
		err = status.Error(codes.Code(e.GetCode()), e.GetMessage())
	}
	s.note(list, answer.GetResult(), err)
}

// unanswered are the lists that were begun and never answered: the stream has ended.
func (s *auditedStream) unanswered() []listed {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := slices.Collect(maps.Values(s.lists))
	clear(s.lists)
	return left
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
	s.mu.Unlock()
	switch list := m.(type) {
	case *kvv1.BatchRequest: // It is noted when it is answered.
		s.begin(list)
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
	switch response := answerIn(m).(type) {
	case *kvv1.BatchResponse:
		s.answered(response)
	case interface{ GetCancelReason() string }:
		// etcd's watches are refused one by one, and their stream goes on.
		if code := refusedWatch(response.GetCancelReason()); code != codes.OK {
			call := s.witness.call(s.ctx, s.method, time.Now())
			call.Err = status.Error(code, "")
			s.trail.Note(call)
		}
	}
	return s.ServerStream.SendMsg(m)
}

// refusedWatch is the code of a reason, in etcd's words, for which a watch was refused for
// who asks for it.
func refusedWatch(reason string) codes.Code {
	switch {
	case strings.HasSuffix(reason, "permission denied"):
		return codes.PermissionDenied
	case strings.HasSuffix(reason, "user name is empty"), strings.HasSuffix(reason, "invalid auth token"):
		return codes.Unauthenticated
	}
	return codes.OK
}
