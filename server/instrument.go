package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/inbound"
	"github.com/batondb/baton/internal/refusal"
)

// Waiter is a service some of whose unary calls get no deadline from the server:
// they last until something happens, such as a lock becoming free, or they take a
// shared deadline.
type Waiter interface{ Waits(method string) bool }

// Builder is a service some of whose unary calls build answers without a bound of
// their own: they find an Answer in their context.
type Builder interface{ Builds(method string) bool }

// instrumented registers services and treats all their calls alike: it finds out who
// makes a call, gives unary calls a deadline if they have none (but see Waiter), gives
// streams a context that ends when the pod stops, and counts every call. An
// interceptor would have to look up the method, and allocate, for each call.
type instrumented struct {
	grpc.ServiceRegistrar
	core *core
	// identify puts who makes a call into its context; nil: nobody's calls come here.
	identify func(ctx context.Context) (context.Context, error)
	// fail turns a call's error into what its client gets.
	fail func(ctx context.Context, err error) error
	// refuse does that with the errors of calls that do not reach their method.
	refuse func(ctx context.Context, err error) error
}

// Refusing returns the registrar that a function given to [Server.Register] gets, with
// refuse to make of the reason why a call does not reach its method what clients get.
func Refusing(registrar grpc.ServiceRegistrar, refuse func(ctx context.Context, err error) error) grpc.ServiceRegistrar {
	if i, ok := registrar.(instrumented); ok {
		i.refuse = refuse
		return i
	}
	return registrar
}

func (i instrumented) RegisterService(desc *grpc.ServiceDesc, service any) {
	wrapped := *desc
	wrapped.Methods, wrapped.Streams = nil, nil
	waiter, _ := service.(Waiter)
	builder, _ := service.(Builder)
	for _, m := range desc.Methods {
		name := "/" + desc.ServiceName + "/" + m.MethodName
		counts := i.core.metrics.unary(name)
		handle := m.Handler
		if builder != nil && builder.Builds(m.MethodName) {
			handle = i.building(handle)
		}
		needs := i.needs(desc, m.MethodName)
		m.Handler = i.unary(counts, needs, handle, waiter != nil && waiter.Waits(m.MethodName))
		i.gate(name, needs, counts)
		wrapped.Methods = append(wrapped.Methods, m)
	}
	for _, s := range desc.Streams {
		name := "/" + desc.ServiceName + "/" + s.StreamName
		counts := i.core.metrics.stream(name)
		needs := i.needs(desc, s.StreamName)
		s.Handler = i.stream(counts, needs, s.Handler, !s.ClientStreams || s.StreamName == "Watch")
		i.gate(name, needs, counts)
		wrapped.Streams = append(wrapped.Streams, s)
	}
	i.ServiceRegistrar.RegisterService(&wrapped, service)
}

// gate lets calls of a method be refused early, if it is looked at who makes them.
func (i instrumented) gate(name string, needs need, counts *method) {
	switch needs {
	case someone, itsKeys, eachMessage, administrator:
		i.core.rates.gates[name] = &gate{i.refuse, counts}
	}
}

func (i instrumented) unary(counts *method, needs need, handle grpc.MethodHandler, waits bool) grpc.MethodHandler {
	return func(service any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		start := time.Now()
		if !waits {
			var cancel context.CancelFunc
			ctx, cancel = withDeadline(ctx)
			defer cancel()
		}
		ctx, err := i.admitted(ctx, needs)
		if err != nil {
			err = i.refuse(ctx, err)
			i.judge(ctx, err)
		} else if err = i.core.begun(ctx); err != nil {
			err = i.refuse(ctx, err)
		}
		if err != nil {
			counts.done(start, err)
			return nil, err
		}
		ctx, release := whileProved(ctx)
		defer release()
		response, err := i.call(service, ctx, decode, interceptor, handle)
		i.judge(ctx, err)
		counts.done(start, err)
		return response, err
	}
}

// call handles a unary call, if its caller may have one more, and counts its answer.
func (i instrumented) call(service any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor, handle grpc.MethodHandler) (any, error) {
	if i.identify == nil {
		response, err := handle(service, ctx, decode, interceptor)
		return response, i.fail(ctx, err)
	}
	entered, err := inbound.Enter(ctx)
	if err != nil {
		return nil, err
	}
	defer entered.Leave()
	response, err := handle(service, ctx, decode, interceptor)
	if err != nil {
		return nil, i.failed(ctx, err)
	}
	i.core.answered(ctx, response)
	if response, err = i.core.counted(ctx, response); err != nil {
		err = i.refuse(ctx, err)
	}
	return response, err
}

// building gives a call an Answer.
func (i instrumented) building(handle grpc.MethodHandler) grpc.MethodHandler {
	return func(service any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		answer := &Answer{quota: i.core.bounds.answers, who: whoCalls(ctx)}
		defer answer.end()
		response, err := handle(service, context.WithValue(ctx, answerKey{}, answer), decode, interceptor)
		if err == nil {
			response = answer.take(ctx, response)
		}
		return response, err
	}
}

// stream wraps a stream; paced: it brings what it finds, rather than answering each of its
// requests, and the rate of its caller's tenant slows that down.
func (i instrumented) stream(counts *method, needs need, handle grpc.StreamHandler, paced bool) grpc.StreamHandler {
	return func(service any, stream grpc.ServerStream) error {
		start := time.Now()
		admitted, err := i.admitted(stream.Context(), needs)
		if err == nil {
			if err = i.core.begun(admitted); err != nil {
				err = i.refuse(admitted, err)
				counts.done(start, err)
				return err
			}
		}
		ctx, release := i.core.streamContext(admitted)
		defer release()
		counts.open.Inc()
		defer counts.open.Dec()
		if err != nil {
			err = i.refuse(ctx, err)
		} else {
			served := &servedStream{stream, ctx, i.answersOf(), paced, caller.From(ctx)}
			err = i.bounded(ctx, func() error { return handle(service, served) })
		}
		i.judge(ctx, err)
		counts.done(start, err)
		return err
	}
}

// bounded handles a stream if its caller may have one more.
func (i instrumented) bounded(ctx context.Context, handle func() error) error {
	if i.identify == nil {
		return i.fail(ctx, handle())
	}
	who, streams := whoCalls(ctx), i.core.bounds.streams
	if err := streams.Take(who, 1); err != nil {
		return i.refuse(ctx, err)
	}
	defer streams.Give(who, 1)
	return i.fail(ctx, handle())
}

// failed is what the client gets for the error of a method.
func (i instrumented) failed(ctx context.Context, err error) error {
	if before := i.core.refusedBefore(ctx, err); before != nil {
		return i.refuse(ctx, before)
	}
	return i.fail(ctx, err)
}

// judge slows down whoever makes too many calls that cannot succeed.
func (i instrumented) judge(ctx context.Context, err error) {
	if i.identify == nil || err == nil {
		return
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Internal, codes.ResourceExhausted, codes.Unauthenticated, codes.PermissionDenied:
		inbound.Useless(ctx)
	}
}

// answersOf is whose quota answers are counted in; nil on the peer port.
func (i instrumented) answersOf() *core {
	if i.identify == nil {
		return nil
	}
	return i.core
}

// needs looks up what a method needs. Only pods reach the peer port.
func (i instrumented) needs(desc *grpc.ServiceDesc, method string) need {
	service := "/" + desc.ServiceName + "/"
	if i.identify == nil {
		return needs[peerPort+service]
	}
	return needs[service+method]
}

// admitted finds out who makes a call, and refuses it if they may not call the method.
func (i instrumented) admitted(ctx context.Context, needs need) (context.Context, error) {
	switch needs {
	case aPod:
		return asPod(ctx), nil
	case nothing:
		return ctx, nil
	case denied:
		return ctx, errDenied
	}
	ctx, err := i.identify(ctx)
	if err == nil {
		i.core.remember(ctx)
	}
	if needs == eachMessage {
		return withUnproved(ctx, err), nil
	}
	if err == nil {
		err = i.core.allow(ctx, needs)
	}
	return ctx, err
}

// servedStream is a stream whose context also ends when the pod stops, or when what
// proved who calls ends.
type servedStream struct {
	grpc.ServerStream
	ctx  context.Context
	core *core // nil: what is sent is not counted.
	// paced: it waits while its caller's tenant owes, and has no grace.
	paced  bool
	caller caller.Caller
}

// lapseGrace is how long after the end of a caller's proof the answers are still sent to
// what it asked before, on streams that answer. The timer that ends a stream stands still
// while the machine does, and does not know of a clock that is put right: this goes by the
// clock.
const lapseGrace = defaultDeadline

// RecvMsg implements grpc.ServerStream.
func (s *servedStream) RecvMsg(into any) error {
	err := s.ServerStream.RecvMsg(into)
	if err == nil && s.lapsed(0) {
		return errLapsed(s.caller)
	}
	return err
}

// SendMsg implements grpc.ServerStream.
func (s *servedStream) SendMsg(message any) error {
	grace := lapseGrace
	if s.paced {
		grace = 0
	}
	if s.lapsed(grace) {
		return errLapsed(s.caller)
	}
	if s.core == nil {
		return s.ServerStream.SendMsg(message)
	}
	if !s.paced {
		s.core.answered(s.ctx, message)
	} else if err := s.core.slowed(s.ctx, message); err != nil {
		return err
	}
	sent, err := s.core.counted(s.ctx, message)
	if err != nil {
		return err
	}
	if err = s.ServerStream.SendMsg(sent); err != nil {
		uncount(sent)
	}
	return err
}

func (s *servedStream) Context() context.Context { return s.ctx }

// lapsed says that what proved who calls has ended, and a grace after it.
func (s *servedStream) lapsed(grace time.Duration) bool {
	return !s.caller.Until.IsZero() && time.Now().After(s.caller.Until.Add(grace))
}

// whileProved ends a call that its client lets wait until after the end of what proves who
// calls, and the grace; one without a deadline looks after that itself.
func whileProved(ctx context.Context) (context.Context, context.CancelFunc) {
	who := caller.From(ctx)
	end := who.Until.Add(lapseGrace)
	if deadline, ok := ctx.Deadline(); who.Until.IsZero() || !ok || deadline.Before(end) {
		return ctx, func() {}
	}
	return context.WithDeadlineCause(ctx, end, errLapsed(who))
}

// streamContext ends with the client's context, when the pod stops, or when what proved
// who calls ends. The returned function frees it.
func (c *core) streamContext(client context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithValue(client, clientKey{}, client))
	release := context.AfterFunc(c.stopping, func() { cancel(errStopping) })
	who := caller.From(client)
	if who.Until.IsZero() {
		return ctx, func() { release(); cancel(nil) }
	}
	lapse := time.AfterFunc(time.Until(who.Until), func() { cancel(errLapsed(who)) })
	return ctx, func() { release(); lapse.Stop(); cancel(nil) }
}

type clientKey struct{}

// clientContext returns the client's own context, which goes on when the pod stops.
// It takes a context made by streamContext.
func clientContext(ctx context.Context) context.Context {
	return ctx.Value(clientKey{}).(context.Context)
}

// errStopping ends streams when the pod stops.
var errStopping = errNotReady("it is stopping")

// fail turns an error into what clients of Baton's own API get. Once the pod has ended a
// stream, it tells the client why, whatever error the stream ended with.
func (c *core) fail(ctx context.Context, err error) error {
	if cause := refusal.Of(context.Cause(ctx)); cause != nil {
		err = cause
	}
	return c.statusOf(err)
}
