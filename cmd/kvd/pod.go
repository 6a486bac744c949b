package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/batondb/baton/kubernetes/place"
	"github.com/batondb/baton/recovery"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/node"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/server/audit"
	"github.com/batondb/baton/store"
)

// pod holds the parts that run. A part that has not started yet is nil.
type pod struct {
	config     *config
	logger     *slog.Logger
	kubernetes *kubernetesPod
	peerTLS    *peerTLS
	// misplaced receives an error when the data turns out to belong elsewhere.
	misplaced chan error
	server    *server.Server
	trail     *audit.Trail // nil: there is none
	node      *node.Node
	store     *store.Store
	// damaged says why the data is useless; empty: it is sound.
	damaged string
}

// prepare returns when the pod may talk to the others.
func (p *pod) prepare(ctx context.Context, registry prometheus.Registerer) error {
	if err := p.settle(ctx); err != nil {
		return err
	}
	return p.secure(ctx, registry)
}

// settle returns when the pod's data may be served. A new history that was begun and
// not finished is finished first; since the record may change meanwhile, it is
// looked at again afterwards.
func (p *pod) settle(ctx context.Context) error {
	begin := func(ctx context.Context, cluster, place string) error {
		r := p.config.recovery(nil, p.kubernetes.api(), p.logger)
		r.Cluster, r.Place = cluster, place
		return recovery.Finish(ctx, r)
	}
	for {
		if p.kubernetes != nil {
			settler := place.Settler{
				Pod: p.kubernetes.Pod, Dir: p.config.dataDir, Name: p.config.name, Say: p.server.Wait, Begin: begin, Logger: p.logger,
			}
			if err := settler.Settle(ctx); err != nil {
				return err
			}
		}
		disk, err := node.Examine(p.config.dataDir)
		if err != nil || disk.Successor == "" {
			return nil //nolint:nilerr // Opening it reports the same.
		}
		p.server.Wait("it begins a new history with its data")
		err = begin(ctx, disk.Successor, "")
		p.server.Wait("")
		if err != nil {
			return fmt.Errorf("begin a new history: %w", err)
		}
	}
}

// arrive waits for a database to open, and gives up when the node fails.
func (p *pod) arrive(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arrived := make(chan error, 1)
	go func() { arrived <- p.node.Arrive(ctx) }()
	select {
	case err := <-arrived:
		return err
	case err := <-p.node.Failed():
		cancel()
		<-arrived
		return nodeFailed(err)
	}
}

// wait returns nil when the process is told to stop, and an error when a part
// has failed.
func (p *pod) wait(ctx context.Context) error {
	waiting, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	end := func() {
		cancel()
		err := within(waiting, 0, func(context.Context) error { others.Wait(); return nil })
		if err != nil { // A hung disk must not hold up the stop.
			p.logger.Warn("what looks after this pod's data goes on", slog.Any("error", err))
		}
	}
	defer end()
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
	case err := <-p.node.Failed():
		return nodeFailed(err)
	case <-asked:
		return unlessStopped(ctx, errRecover)
	case err := <-p.misplaced:
		return fmt.Errorf("the data must not be served here: %w", err)
	case err := <-failed:
		end()
		return p.unusable(ctx, fmt.Errorf("the database cannot go on: %w", err))
	}
}

// awaitRecovery returns when a person has asked for a recovery and got it, or when
// ctx ends.
func (p *pod) awaitRecovery(ctx context.Context) {
	recovery.Await(ctx, p.config.dataDir, func(lost []string) error {
		_, err := recovery.Decide(ctx, p.node, p.config.recovery(lost, p.kubernetes.api(), p.logger), p.kubernetes.api())
		return err
	}, p.logger)
}

// unusable deals with data that cannot be served. Damaged data is given up as soon
// as the others can do without this pod; until then the pod serves nobody, and goes
// on voting if its node runs.
func (p *pod) unusable(ctx context.Context, err error) error {
	if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, replication.ErrDamaged) {
		return fmt.Errorf("%w: check the volume", err)
	}
	p.logger.Error("this pod's data is damaged", slog.Any("error", err))
	p.damaged, _, _ = strings.Cut(err.Error(), "\n") // A stack may follow.
	p.server.Withdraw(p.damaged)
	return p.wait(ctx)
}

// reclone returns when ctx ends, or when the data has been given up: the node then
// fails, too, and says so.
func (p *pod) reclone(ctx context.Context) {
	if err := p.node.Reclone(ctx, p.damaged); err != nil {
		p.logger.Info("the damaged data is not set aside yet", slog.Any("error", err))
	}
}

func nodeFailed(err error) error {
	if errors.Is(err, replication.ErrRetired) {
		return err // It says what to do.
	}
	return fmt.Errorf("the log cannot go on: %w: check the volume; nothing that was acknowledged is lost "+
		"as long as a majority of the pods has its data", err)
}

// close ends what runs; see stop.
func (p *pod) close(err error) error {
	defer p.trail.Close()
	defer p.peerTLS.close()
	defer p.kubernetes.close()
	p.stop(err != nil).run()
	if err == nil {
		p.logger.Info("stopped")
	}
	return err
}
