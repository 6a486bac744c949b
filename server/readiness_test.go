package server

import (
	"context"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/health/grpc_health_v1"
)

// The loss of the master, and a new one, make a pod unready and ready without a
// wait for the next look.
func TestReadinessFollowsTheMaster(t *testing.T) {
	s := New(Options{Name: "kv-0"})
	defer s.grpc.Stop()
	log := &fakeLog{name: "kv-0", master: "kv-1", server: s}
	s.UseLog(log)
	s.UseStore(newStore(t).Store)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go s.readiness.run(ctx)
		for _, master := range []string{"kv-1", "", "kv-2"} {
			log.setMaster(master)
			synctest.Wait()
			want := grpc_health_v1.HealthCheckResponse_SERVING
			if master == "" {
				want = grpc_health_v1.HealthCheckResponse_NOT_SERVING
			}
			if got, err := s.readiness.health.Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil || got.GetStatus() != want {
				t.Errorf("with master %q: %v, %v", master, got, err)
			}
		}
		cancel()
	})
}
