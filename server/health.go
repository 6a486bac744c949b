package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// healthService is gRPC's own, but ends its watches when the pod stops: otherwise
// they would hold up the graceful stop until it gives up.
type healthService struct {
	*health.Server
	core *core
}

func (s *healthService) Watch(req *grpc_health_v1.HealthCheckRequest, out grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	ctx, release := s.core.streamContext(out.Context())
	defer release()
	return s.core.fail(ctx, s.Server.Watch(req, &healthStream{ServerStreamingServer: out, ctx: ctx}))
}

// healthStream is the stream with another context.
type healthStream struct {
	grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]
	ctx context.Context
}

func (s *healthStream) Context() context.Context { return s.ctx }
