package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// ports are the three listeners of a pod.
type ports struct {
	client, peer, http net.Listener
}

func listen(c *config) (*ports, error) {
	p := &ports{}
	for _, l := range []struct {
		listener      *net.Listener
		flag, address string
	}{
		{&p.client, "--listen-client", c.listenClient}, {&p.peer, "--listen-peer", c.listenPeer}, {&p.http, "--listen-http", c.listenHTTP},
	} {
		var err error
		if *l.listener, err = c.world.listen("tcp", l.address); err != nil {
			p.close()
			return nil, fmt.Errorf("%w: stop what uses the port, or change %s", err, l.flag)
		}
	}
	return p, nil
}

// occupy takes the ports, and makes the data directory.
func occupy(c *config) (*ports, error) {
	p, err := listen(c)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.dataDir, 0o700); err != nil {
		p.close()
		return nil, fmt.Errorf("%w: make --data-dir writable for this user", err)
	}
	return p, nil
}

func (p *ports) close() {
	for _, l := range []net.Listener{p.client, p.peer, p.http} {
		if l != nil {
			_ = l.Close() // Nothing was accepted.
		}
	}
}

// at gives the address at which others reach a listener.
func (c *config) at(l net.Listener) string {
	return net.JoinHostPort(c.host(), strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

func newLogger(w io.Writer, c *config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.logLevel)) // complete has checked it
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})).With(slog.String("pod", c.name))
}

func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

func (c *config) serverOptions(logger *slog.Logger, registry *prometheus.Registry, p *ports) server.Options {
	return server.Options{
		Name:          c.name,
		ClientAddress: c.at(p.client),
		PeerAddress:   c.at(p.peer),
		Version:       version,
		Logger:        logger,
		Registry:      registry,
		Space:         func() (server.Space, error) { return c.world.space(c.dataDir) },
		KeepAge:       c.keepAge,
		KeepRevisions: c.keepRevisions,

		VerifyBytesPerSecond: c.verifyRate,
		VerifyInterval:       c.world.verifyInterval,
	}
}

func (c *config) replicationOptions(logger *slog.Logger, registry *prometheus.Registry, peer net.Listener, s *server.Server) replication.Options {
	return replication.Options{
		Dir:        c.dataDir,
		Name:       c.name,
		Resolver:   newResolver(c).resolve,
		Listener:   peer,
		Peers:      c.peers,
		Logger:     logger,
		Registerer: registry,
		HasData:    func() bool { return store.Exists(c.dataDir) },
		Receive:    func(r io.Reader) (replication.Position, error) { return store.Receive(c.dataDir, r) },
		RunMaster:  s.RunMaster,
		Differs:    s.Differs,
		PodStatus:  s.CompleteStatus,

		ComparePart: s.ComparePart,

		CheckCommand: s.CheckForwarded,

		LogBytes:  c.world.logBytes,
		Timing:    c.world.timing,
		Dial:      c.world.dial,
		LogFS:     c.world.logFS,
		Committed: c.world.committed,
		Observe:   c.world.observe,
	}
}
