package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/batondb/baton/replication/node"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/server/etcd"
	"github.com/batondb/baton/store"
)

// errRecover ends a run so that the data can be recovered; then the pod runs again.
var errRecover = errors.New("a recovery was asked for")

// serve runs the pod until it is stopped, and again after each decision to recover.
func serve(ctx context.Context, c config) error {
	c.world = c.world.complete()
	for {
		if err := run(ctx, c); !errors.Is(err, errRecover) {
			return err
		}
	}
}

// run runs one pod from its start to its end. The ports come first: the pod must
// find out that a port is taken before it touches the disk, and answer probes while
// it waits for its volume, clones, or replays. Everything else is built from the
// bottom up, and taken down from the top; see stop.
func run(ctx context.Context, c config) (err error) {
	logger := c.world.logger(&c)
	tuneMemory(logger)
	warnUnlessMounted(logger, c.dataDir)

	inKubernetes := c.inKubernetes(logger)
	security, err := c.clients.open(inKubernetes, logger)
	if err != nil {
		return err
	}
	peerTLS, err := c.openPeerTLS(logger)
	if err != nil {
		return err
	}
	ports, err := occupy(&c)
	if err != nil {
		return err
	}
	registry := newRegistry()
	serving := c.serverOptions(logger, registry, ports)
	if security.Audit, err = c.trail(logger, registry); err != nil {
		ports.close()
		return err
	}
	serving.Security = security
	p := &pod{config: &c, logger: logger, server: server.New(serving),
		kubernetes: inKubernetes, peerTLS: peerTLS, trail: security.Audit, misplaced: make(chan error, 1)}
	p.showClientTLS(registry, security.Certificates)
	p.server.Register(etcd.Register)
	p.server.Start(ports.client, ports.http)
	defer func() { err = p.close(err) }()

	if err := p.prepare(ctx, registry); err != nil {
		ports.peer.Close() //nolint:errcheck // Nothing was accepted.
		return unlessStopped(ctx, err)
	}
	options := c.replicationOptions(logger, registry, ports.peer, p.server)
	options.Security = p.peerTLS.security()
	p.kubernetes.complete(&options)
	p.node, err = node.Open(ctx, options)
	if err != nil {
		return unlessStopped(ctx, fmt.Errorf("open the log: %w", err))
	}
	p.server.UseLog(p.node)
	if why := p.node.Disk().Condemned; why != "" {
		p.server.Withdraw(why)
	}
	p.kubernetes.start(p.node, p.misplaced)
	p.node.RegisterPeerService(p.server.RegisterPeer)
	if err := p.arrive(ctx); err != nil {
		return unlessStopped(ctx, err)
	}

	p.store, err = store.Open(store.Options{
		Dir: c.dataDir, Logger: logger, Registerer: registry, TableBytes: c.world.tableBytes, Committed: c.world.committed,
	})
	if err != nil {
		return p.unusable(ctx, fmt.Errorf("open the database: %w", err))
	}
	p.server.UseStore(p.store)
	if err := p.node.Start(p.store); err != nil {
		return p.unusable(ctx, fmt.Errorf("start the log: %w", err))
	}
	logger.Info("started", slog.String("version", version),
		slog.String("client", ports.client.Addr().String()), slog.String("http", ports.http.Addr().String()))
	return p.wait(ctx)
}

// unlessStopped drops an error that only a stop has caused.
func unlessStopped(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return err
	}
}
