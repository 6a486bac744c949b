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
	st := s.core.store.Load() // Also in doubt: that may end, and this pod goes on leading.
	if st == nil || s.core.doubts.diverged.Load() != nil {
		return // Its data turned out to differ: the pod is about to end.
	}
	leases := newLeaseExpirer(st)
	s.leaseExpirer.Store(leases)
	defer s.leaseExpirer.Store(nil)
	defer s.core.metrics.leases.Set(0)

	var all sync.WaitGroup
	all.Go(func() { leases.run(ctx, s.core) })
	all.Go(func() { newCompactor(s.core, st).run(ctx) })
	all.Go(func() { s.core.countTenants(ctx, st) })
	all.Wait()
}
