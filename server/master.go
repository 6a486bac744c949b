package server

import (
	"context"
	"sync"
)

// RunMaster does what only the master does, all of it driven by a clock: it
// ends leases whose time is over, and compacts. It returns when ctx ends and
// all that it has started has ended. It is called by replication, each time
// that this pod holds the baton.
func (s *Server) RunMaster(ctx context.Context) {
	st, err := s.core.needStore()
	if err != nil {
		return // Only once its data turned out to differ: the pod is about to end.
	}
	leases := newLeaser(st)
	s.leaser.Store(leases)
	defer s.leaser.Store(nil)
	defer s.core.metrics.leases.Set(0)

	var all sync.WaitGroup
	all.Go(func() { leases.run(ctx, s.core) })
	all.Go(func() { newCompactor(s.core, st).run(ctx) })
	all.Wait()
}
