package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/node"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// pod holds the parts that run. A part that has not started yet is nil.
type pod struct {
	config     *config
	logger     *slog.Logger
	kubernetes *kubernetesPod
	// misplaced receives an error when the data turns out to belong elsewhere.
	misplaced chan error
	server    *server.Server
	node      *node.Node
	store     *store.Store
	// damaged says why the data is useless; empty: it is sound.
	damaged string
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
	case err := <-p.node.Failed():
		return nodeFailed(err)
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
	defer p.kubernetes.close()
	p.stop(err != nil).run()
	if err == nil {
		p.logger.Info("stopped")
	}
	return err
}
