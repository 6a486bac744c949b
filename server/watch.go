package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// watchService answers baton.kv.v1.WatchService. A watch holds no events: the
// store's watcher is a cursor that reads again when the client has taken what
// was sent, so a slow client costs nothing but its own delay.
type watchService struct {
	kvv1.UnsafeWatchServiceServer
	core *core
}

func (s *watchService) Watch(req *kvv1.WatchRequest, out grpc.ServerStreamingServer[kvv1.WatchResponse]) error {
	if err := checkWatch(req); err != nil {
		return err
	}
	return s.follow(out.Context(), req, out)
}

// follow sends what the watcher finds, and progress when it finds nothing.
func (s *watchService) follow(ctx context.Context, req *kvv1.WatchRequest, out grpc.ServerStreamingServer[kvv1.WatchResponse]) error {
	watcher, err := s.core.watch(ctx, req)
	if err != nil {
		return err
	}
	defer watcher.Close()
	log, err := s.core.needLog()
	if err != nil {
		return err
	}
	if err := checkCluster(log, req.GetClusterId()); err != nil {
		return err
	}
	first := s.progressAt(watcher.Start())
	first.ClusterId = log.ClusterID()
	if err := out.Send(first); err != nil {
		return err
	}
	interval := time.Duration(req.GetProgressIntervalMs()) * time.Millisecond
	if interval == 0 {
		interval = defaultProgress
	}
	for {
		response, err := next(ctx, watcher, interval)
		if why := s.core.withheld(); why != nil {
			return errNotReady(*why)
		}
		if old := s.core.outdated(ctx); old != nil {
			return old
		}
		switch {
		case err == nil:
			err = out.Send(&kvv1.WatchResponse{ // The store's own may be others', too.
				Header: &kvv1.ResponseHeader{Revision: response.GetHeader().GetRevision(), Pod: s.core.options.Name},
				Events: response.GetEvents(), Partial: response.GetPartial(),
			})
		case errors.Is(err, errQuiet):
			err = out.Send(s.progressAt(watcher.Progress()))
		}
		if err != nil {
			return err
		}
	}
}

// watch begins a watch, and counts it: all services share one limit.
func (c *core) watch(ctx context.Context, req *kvv1.WatchRequest) (*Watcher, error) {
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	who := whoCalls(ctx)
	if err := c.bounds.watches.Take(who, 1); err != nil {
		return nil, err
	}
	var watcher *store.Watcher
	st, err := c.needStore()
	if err == nil {
		err = c.mayWatch(ctx, req)
	}
	if err == nil {
		watcher, err = st.Watch(req)
	}
	if err != nil {
		c.bounds.watches.Give(who, 1)
		return nil, err
	}
	watcher.For(caller.From(ctx))
	c.metrics.watches.Inc()
	return &Watcher{watcher, c, who}, nil
}

// Watcher is the store's, and one of a limited number until it is closed.
type Watcher struct {
	*store.Watcher
	core *core
	who  string
}

// Close ends the watch, and makes room for another one.
func (w *Watcher) Close() {
	w.Watcher.Close()
	w.core.bounds.watches.Give(w.who, 1)
	w.core.metrics.watches.Dec()
}

// progressAt says how far a watch is.
func (s *watchService) progressAt(revision int64) *kvv1.WatchResponse {
	return &kvv1.WatchResponse{Header: &kvv1.ResponseHeader{Revision: revision, Pod: s.core.options.Name}}
}

// errQuiet is returned by next when there was nothing for a while.
var errQuiet = errors.New("no events")

func next(ctx context.Context, watcher *Watcher, interval time.Duration) (*kvv1.WatchResponse, error) {
	patience, cancel := context.WithTimeoutCause(ctx, interval, errQuiet)
	defer cancel()
	response, err := watcher.Next(patience)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(patience), errQuiet) {
		return nil, errQuiet
	}
	return response, err
}
