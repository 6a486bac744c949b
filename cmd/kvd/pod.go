package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// How long the parts of a stop may take. Together they stay below the 30 s that
// Kubernetes gives by default.
const (
	handOverTimeout = 3 * time.Second
	inFlightTimeout = 8 * time.Second
	logTimeout      = 8 * time.Second
	storeTimeout    = 8 * time.Second
)

// pod holds the parts that run, as far as they have come: nil is not yet.
type pod struct {
	config     *config
	logger     *slog.Logger
	kubernetes *kubernetesPod
	// misplaced has an error when the data turns out to be another place's.
	misplaced chan error
	server    *server.Server
	log       *replication.Node
	store     *store.Store
	// damaged is why the data is of no use; empty: it is not.
	damaged string
}

// arrive waits for a database to open, and gives up when the log fails.
func (p *pod) arrive(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arrived := make(chan error, 1)
	go func() { arrived <- p.log.Arrive(ctx) }()
	select {
	case err := <-arrived:
		return err
	case err := <-p.log.Failed():
		cancel()
		<-arrived
		return logFailed(err)
	}
}

// wait returns nil when the process is told to stop, and an error when a part
// has failed.
func (p *pod) wait(ctx context.Context) error {
	waiting, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer func() { cancel(); others.Wait() }()
	asked := make(chan struct{})
	others.Go(func() {
		defer close(asked)
		p.awaitRecovery(waiting)
	})
	var failed <-chan error
	if p.damaged == "" {
		failed = p.store.Failed()
	} else {
		others.Go(func() { p.reclone(waiting) })
	}
	select {
	case <-ctx.Done():
		p.logger.Info("stopping")
		return nil
	case err := <-p.log.Failed():
		return logFailed(err)
	case <-asked:
		return unlessStopped(ctx, errRecover)
	case err := <-p.misplaced:
		return fmt.Errorf("the data must not be served here: %w", err)
	case err := <-failed:
		cancel()
		others.Wait()
		return p.unusable(ctx, fmt.Errorf("the database cannot go on: %w", err))
	}
}

// unusable says what becomes of data that cannot be served. What is damaged is
// given up as soon as the others can do without this pod; until then the pod
// serves nobody, and votes on if its log runs.
func (p *pod) unusable(ctx context.Context, err error) error {
	if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, replication.ErrDamaged) {
		return fmt.Errorf("%w: check the volume", err)
	}
	p.logger.Error("this pod's data is damaged", slog.Any("error", err))
	p.damaged, _, _ = strings.Cut(err.Error(), "\n") // A stack may follow.
	p.server.Withdraw(p.damaged)
	return p.wait(ctx)
}

// reclone returns when the data is given up, which the log tells as well, or
// when ctx ends.
func (p *pod) reclone(ctx context.Context) {
	if err := p.log.Reclone(ctx, p.damaged); err != nil {
		p.logger.Info("the damaged data is not set aside yet", slog.Any("error", err))
	}
}

func logFailed(err error) error {
	if errors.Is(err, replication.ErrRetired) {
		return err // It says what to do.
	}
	return fmt.Errorf("the log cannot go on: %w: check the volume; nothing that was acknowledged is lost "+
		"as long as a majority of the pods has its data", err)
}

// close ends what runs, from the top down: unready first, so that nobody new
// comes; then the baton, so that writes go on elsewhere while this pod still
// answers; then the membership, if this pod is not wanted any more; then what
// is in flight, the log, and the database under it.
func (p *pod) close(err error) error {
	p.server.Drain()
	p.kubernetes.stop()
	defer p.kubernetes.close()
	if p.log != nil {
		p.log.Stopping()
		departs := make(chan bool, 1)
		go func() { departs <- err == nil && p.kubernetes.departs(p.config.name) }()
		if p.log.IsMaster() {
			p.handOver()
		}
		if <-departs && p.store != nil {
			p.leave()
		}
	}
	within(inFlightTimeout, func(ctx context.Context) error { p.server.Stop(ctx); return nil })
	if p.log != nil {
		if logErr := within(logTimeout, p.log.Close); logErr != nil {
			p.logger.Warn("the log did not close cleanly; nothing is lost, the next start replays it", slog.Any("error", logErr))
		}
	}
	if p.store != nil {
		if storeErr := within(storeTimeout, func(context.Context) error { return p.store.Close() }); storeErr != nil {
			p.logger.Warn("the database did not close cleanly; nothing is lost, the next start replays the log", slog.Any("error", storeErr))
		}
	}
	if err == nil {
		p.logger.Info("stopped")
	}
	return err
}

func (p *pod) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), handOverTimeout)
	defer cancel()
	start := time.Now()
	to, err := p.log.HandOver(ctx, "")
	if err != nil {
		p.logger.Info("the baton was not handed over; the other pods, if there are any, choose a master themselves",
			slog.Any("error", err))
		return
	}
	p.logger.Info("handed the baton over", slog.String("to", to), slog.Duration("took", time.Since(start)))
}

// within gives up on a part that does not end: the process ends anyway, and a
// hung disk must not keep it.
func within(limit time.Duration, end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- end(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-time.After(limit + time.Second):
		return fmt.Errorf("did not end within %s", limit)
	}
}
