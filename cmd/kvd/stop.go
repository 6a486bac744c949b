package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// A stop has one budget for all of its steps, which stays below the 30 s that
// Kubernetes gives by default. Each step has a limit of its own, so that one that
// hangs leaves something to the next; the last ones get what is left. Cut short,
// they lose nothing: the next start replays the log.
const (
	stopBudget    = 25 * time.Second
	handOverLimit = 3 * time.Second
	// leaveLimit allows for several pods that leave in turn.
	leaveLimit    = 12 * time.Second
	inFlightLimit = 8 * time.Second
	closeLimit    = 8 * time.Second // The log's, and the database's.
	// lastMoment lets a step notice that its time is up.
	lastMoment = time.Second
)

// stop ends a pod from the top down: it becomes unready first, so that nobody new
// comes; hands the baton over, so that writes go on elsewhere while it still
// answers; leaves the cluster if it is not wanted any more; finishes what is in
// flight; and closes the node, then the database under it. Nothing else decides
// whether and when to hand over, and each step is taken once.
type stop struct {
	logger  *slog.Logger
	unready func()
	// leads says whether this pod holds the baton.
	leads    func() bool
	handOver func(ctx context.Context) (to string, err error)
	// departs says whether this pod is to leave the cluster.
	departs    func(ctx context.Context) bool
	leave      func(ctx context.Context) error
	inFlight   func(ctx context.Context)
	closeNode  func(ctx context.Context) error
	closeStore func() error
}

func (s *stop) run() {
	ctx, cancel := context.WithTimeout(context.Background(), stopBudget)
	defer cancel()
	s.unready()
	departs := make(chan bool, 1)
	go func() { departs <- s.departs(ctx) }()
	if s.leads() {
		s.handBatonOver(ctx)
	}
	if <-departs {
		s.leaveCluster(ctx)
	}
	if err := within(ctx, inFlightLimit, func(ctx context.Context) error { s.inFlight(ctx); return nil }); err != nil {
		s.logger.Warn("what is in flight is cut off", slog.Any("error", err))
	}
	if err := within(ctx, closeLimit, s.closeNode); err != nil {
		s.logger.Warn("the log did not close cleanly; nothing is lost, the next start replays it", slog.Any("error", err))
	}
	if err := within(ctx, closeLimit, func(context.Context) error { return s.closeStore() }); err != nil {
		s.logger.Warn("the database did not close cleanly; nothing is lost, the next start replays the log", slog.Any("error", err))
	}
}

func (s *stop) handBatonOver(ctx context.Context) {
	start, to := time.Now(), ""
	err := within(ctx, handOverLimit, func(ctx context.Context) (err error) {
		to, err = s.handOver(ctx)
		return err
	})
	if err != nil {
		s.logger.Info("the baton was not handed over; the other pods, if there are any, choose a master themselves",
			slog.Any("error", err))
		return
	}
	s.logger.Info("handed the baton over", slog.String("to", to), slog.Duration("took", time.Since(start)))
}

func (s *stop) leaveCluster(ctx context.Context) {
	start := time.Now()
	if err := within(ctx, leaveLimit, s.leave); err != nil {
		s.logger.Warn("this pod should leave, and could not; the pods that stay remove it", slog.Any("error", err))
		return
	}
	s.logger.Info("this pod has left the cluster: the StatefulSet does not want it any more", slog.Duration("took", time.Since(start)))
}

// within gives up on a step that does not end: a hung disk must not keep the process
// alive.
func within(ctx context.Context, limit time.Duration, step func(context.Context) error) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- step(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(lastMoment):
		return fmt.Errorf("did not end within %s", time.Since(began).Round(time.Millisecond))
	}
}

// stop leaves out what this pod has not started yet.
func (p *pod) stop(failed bool) *stop {
	s := &stop{
		logger:     p.logger,
		unready:    func() { p.server.Drain(); p.kubernetes.stop() },
		leads:      func() bool { return false },
		departs:    func(context.Context) bool { return false },
		inFlight:   p.server.Stop,
		closeNode:  func(context.Context) error { return nil },
		closeStore: func() error { return nil },
	}
	if p.node != nil {
		s.unready = func() { p.server.Drain(); p.kubernetes.stop(); p.node.Stopping() }
		s.leads = func() bool { pod, ok := p.node.Master(); return ok && pod == p.config.name }
		s.handOver = func(ctx context.Context) (string, error) { return p.node.HandOver(ctx, "") }
		s.closeNode = p.node.Close
	}
	if p.store != nil {
		s.departs = func(ctx context.Context) bool { return !failed && p.kubernetes.departs(ctx, p.config.name) }
		s.leave = p.node.Leave
		s.closeStore = p.store.Close
	}
	return s
}
