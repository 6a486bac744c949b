package server

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// readiness tells whether this pod should get traffic, and whether the process
// still turns.
type readiness struct {
	core     *core
	health   *health.Server
	draining atomic.Bool
	// waits says why the pod's data is not even opened; nil: it does not wait.
	waits atomic.Pointer[string]
	// beat is when the process last had a turn.
	beat atomic.Pointer[time.Time]
	// locks are taken and released at each beat: a deadlock of the server's
	// stops it. What may wait for a disk or a peer does not belong here.
	locks []func()
	notes notes
}

func newReadiness(c *core, locks ...func()) *readiness {
	r := &readiness{core: c, health: health.NewServer(), locks: locks}
	r.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	now := time.Now()
	r.beat.Store(&now)
	return r
}

// because says why the pod is not ready; empty: it is. A volume that is nearly
// full is no reason: reads and deletes work.
func (r *readiness) because() []string {
	var because []string
	if r.draining.Load() {
		because = append(because, "it is stopping")
	}
	if why := r.waits.Load(); why != nil && *why != "" {
		return append(because, *why)
	}
	log := r.core.log.Load()
	if log == nil {
		return append(because, "it is starting: it waits for its volume")
	}
	if why := r.core.withheld(); why != nil {
		// What it waits for may be a pod that is only created once this one is ready.
		// Who asks it meanwhile is refused.
		if (*log).AwaitsNext() {
			return because
		}
		because = append(because, *why)
	}
	if now := (*log).Status(); !now.Ready {
		because = append(because, now.Because)
	} else if r.core.store.Load() == nil && !now.Cold {
		because = append(because, "it is starting: its database is not open yet")
	}
	return because
}

// drain makes the pod unready for good.
func (r *readiness) drain() {
	r.draining.Store(true)
	r.health.Shutdown()
	r.core.metrics.ready.Set(0)
}

// run keeps gRPC's health service, the metric and the log up to date.
func (r *readiness) run(ctx context.Context) {
	was := false
	for {
		var master <-chan struct{}
		if log := r.core.log.Load(); log != nil {
			master = (*log).MasterChanged()
		}
		because := r.because()
		if ready := len(because) == 0; ready != was {
			was = ready
			r.changed(ready, because)
		}
		interval := readyInterval
		if !was {
			interval = unreadyInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-master:
		case <-time.After(interval):
		}
	}
}

func (r *readiness) changed(ready bool, because []string) {
	if ready {
		r.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
		r.core.metrics.ready.Set(1)
		r.core.options.Logger.Info("ready")
		return
	}
	r.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	r.core.metrics.ready.Set(0)
	r.core.options.Logger.Info("not ready", slog.String("because", strings.Join(because, "; ")))
}

// turn beats until ctx ends.
func (r *readiness) turn(ctx context.Context) {
	tick := time.NewTicker(beatInterval)
	defer tick.Stop()
	for {
		for _, lock := range r.locks {
			lock()
		}
		now := time.Now()
		r.beat.Store(&now)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// alive is true while the process turns.
func (r *readiness) alive() bool { return time.Since(*r.beat.Load()) < beatPatience }
