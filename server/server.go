package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/batondb/baton/internal/inbound"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

// Options of a Server.
type Options struct {
	// Name is the pod's, for example "kv-0".
	Name string
	// ClientAddress and PeerAddress are where others reach this pod; they are
	// shown, and given to clients as a hint.
	ClientAddress, PeerAddress string
	// Version is shown in the status.
	Version string
	Logger  *slog.Logger
	// Registry takes the server's metrics, and is what /metrics shows.
	Registry *prometheus.Registry
	// Space says how much room the data volume has.
	Space func() (Space, error)
	// KeepAge is how long replaced versions can be read; 0: an hour, negative:
	// age does not count. Too short ends watches that were cut off for longer.
	KeepAge time.Duration
	// KeepRevisions is how many revisions can be read; 0: 5,000,000, negative:
	// their number does not count. With both negative nothing is compacted, and
	// the database grows with every write.
	KeepRevisions int64
	// HashInterval is how often this pod compares its data with the others';
	// 0: a minute.
	HashInterval time.Duration
	// VerifyBytesPerSecond is how fast the data at rest is read, checked and compared with
	// the master's; 0: 4 MiB, negative: it is not. A slow round finds damage late, a fast
	// one takes the disk from others.
	VerifyBytesPerSecond int64
	// VerifyInterval is how often that begins again, when it has ended; 0: 10 minutes.
	VerifyInterval time.Duration
	// Security is of the client port and the HTTP port; the zero value: both are
	// plain, and nobody is told apart.
	Security Security
}

const (
	defaultKeepAge = time.Hour
	// defaultKeepRevisions is about 2 GiB of history at 256 bytes a value: an
	// hour at full speed would fill most volumes.
	defaultKeepRevisions = 5_000_000
	defaultHashInterval  = time.Minute
)

func (o *Options) complete() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Space == nil {
		o.Space = func() (Space, error) { return Space{}, errors.New("not known") }
	}
	if o.KeepAge == 0 {
		o.KeepAge = defaultKeepAge
	}
	if o.KeepRevisions == 0 {
		o.KeepRevisions = defaultKeepRevisions
	}
	if o.VerifyBytesPerSecond == 0 {
		o.VerifyBytesPerSecond = defaultVerifyRate
	}
	if o.VerifyInterval == 0 {
		o.VerifyInterval = defaultVerifyInterval
	}
	if o.HashInterval == 0 {
		o.HashInterval = defaultHashInterval
	}
}

// Server answers clients. Its methods may be called by any goroutine, Start
// and Stop once each.
type Server struct {
	options            Options
	core               *core
	readiness          *readiness
	cluster            *clusterService
	leases             *leaseService
	keepAliveForwarder *keepAliveForwarder
	leaseExpirer       *atomic.Pointer[leaseExpirer]
	grpc               *grpc.Server
	http               *http.Server
	transport          *transport // nil: the ports are plain

	stopStreams context.CancelFunc
	stopLoops   context.CancelFunc
	loops       sync.WaitGroup
}

// New builds a server. It answers NOT_READY until UseLog and UseStore.
func New(o Options) *Server {
	o.complete()
	s := &Server{options: o, leaseExpirer: &atomic.Pointer[leaseExpirer]{}}
	stopping, stop := context.WithCancel(context.Background())
	s.stopStreams = stop
	s.core = &core{
		options:      &s.options,
		stopping:     stopping,
		peerStatuses: newPeerStatuses(),
		space:        &space{},
		metrics:      newMetrics(o.Registry),
		doubts:       newDoubts(),
	}
	s.core.bounds = newBounds(o.Registry, s.core.statusOf, s.core.refuseEarly)
	s.core.rates = newRates()
	o.Registry.MustRegister(&tenantMetrics{s.core})
	s.readiness = newReadiness(s.core, s.touchLocks)
	s.cluster = &clusterService{core: s.core, readiness: s.readiness}
	s.keepAliveForwarder = newKeepAliveForwarder(s.core)
	s.leases = &leaseService{
		core: s.core, receivers: &s.core.outliving, leaseExpirer: s.leaseExpirer, keepAliveForwarder: s.keepAliveForwarder,
		leaseIDs: newLeaseIDs(replication.Ordinal(o.Name)),
	}
	s.grpc = s.newGRPC()
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: webHeaderTimeout,
		ReadTimeout:       webTimeout,
		IdleTimeout:       webIdle,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		Protocols:         &http.Protocols{},
	}
	s.http.Protocols.SetHTTP1(true)
	return s
}

func (s *Server) newGRPC() *grpc.Server {
	security := insecure.NewCredentials()
	if s.options.Security.Certificates != nil {
		s.transport = newTransport(s.core)
		security = s.transport
	}
	server := grpc.NewServer(append(s.core.bounds.inbound.ServerOptions(security),
		// Goroutines that stay grow their stacks once, not with each call.
		grpc.NumStreamWorkers(callWorkers),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(greetingTimeout),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connectionWindow),
		grpc.MaxConcurrentStreams(maxStreamsPerConnection),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingIdle, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
	)...)
	own := instrumented{s.audit(server), s.core, s.identify(), s.core.fail, s.core.fail}
	kvv1.RegisterKVServiceServer(own, &kvService{core: s.core})
	kvv1.RegisterWatchServiceServer(own, &watchService{core: s.core})
	kvv1.RegisterLeaseServiceServer(own, s.leases)
	kvv1.RegisterClusterServiceServer(own, s.cluster)
	kvv1.RegisterMaintenanceServiceServer(own, &maintenanceService{core: s.core})
	kvv1.RegisterAuthServiceServer(own, &authService{core: s.core})
	grpc_health_v1.RegisterHealthServer(server, &healthService{Server: s.readiness.health, core: s.core})
	reflection.Register(server)
	return server
}

// RegisterPeer adds what pods ask the master to the peer port: keep-alives and
// times to live.
func (s *Server) RegisterPeer(registrar grpc.ServiceRegistrar) {
	own := &leaseService{core: s.core, receivers: &sync.WaitGroup{}, leaseExpirer: s.leaseExpirer} // The port is its owner's to end.
	kvv1.RegisterLeaseServiceServer(instrumented{registrar, s.core, nil, s.core.fail, s.core.fail}, own)
}

// CompleteStatus fills in what only the server and the store know of this pod.
func (s *Server) CompleteStatus(status *kvv1.PodStatus) { s.cluster.complete(status) }

// UseLog gives the server the log, as soon as there is one.
func (s *Server) UseLog(log Log) { s.core.log.Store(&log) }

// UseStore gives the server the store, as soon as there is one.
func (s *Server) UseStore(st *store.Store) { s.core.store.Store(st) }

// Wait says why the pod waits before it opens its data; empty if it does not.
func (s *Server) Wait(because string) { s.readiness.waits.Store(&because) }

// Withdraw refuses service from now on: the pod's data is of no use, and only
// its vote counts until it can be set aside.
func (s *Server) Withdraw(because string) { s.core.doubts.diverged.Store(&because) }

// Differs is told that this pod's data differs from another's, and says whether
// to serve it all the same; it does not block. It is for the log to call.
func (s *Server) Differs(pod, why string) (serve bool) { return s.core.doubts.raise(pod, why) }

// Start serves the listeners until Stop. It returns at once.
func (s *Server) Start(client, web net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	s.stopLoops = cancel
	for service, info := range s.grpc.GetServiceInfo() {
		for _, method := range info.Methods {
			kind := inbound.Unary
			switch {
			case method.IsClientStream:
				kind = inbound.Streaming
			case method.IsServerStream:
				kind = inbound.ManyAnswers
			}
			s.core.bounds.inbound.Has("/"+service+"/"+method.Name, kind)
		}
	}
	verifier := newVerifier(s.core)
	s.Note(verifier.notes)
	for _, loop := range []func(context.Context){
		s.readiness.run, s.readiness.turn, s.keepAliveForwarder.run,
		s.core.watchSpace, s.core.watchPeers, s.core.watchDivergence, s.core.settleParts, verifier.run,
		s.core.watchRights, s.core.sweepLeases, s.core.bounds.inbound.Run,
	} {
		s.loops.Go(func() { loop(ctx) })
	}
	serveWeb := s.http.Serve
	if files := s.options.Security.Certificates; files != nil {
		s.http.TLSConfig = serverTLS(files, "http/1.1")
		serveWeb = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
		s.loops.Go(func() { files.Run(ctx) })
		s.loops.Go(func() { s.transport.run(ctx) })
	}
	s.loops.Go(func() { s.report("client", s.grpc.Serve(client)) })
	s.loops.Go(func() { s.report("http", serveWeb(&boundedListener{web, s.core.bounds.webConnections})) })
}

func (s *Server) report(port string, err error) {
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		s.options.Logger.Error("a port ended", slog.String("port", port), slog.Any("error", err))
	}
}

// Drain makes the pod unready for good; it goes on answering.
func (s *Server) Drain() { s.readiness.drain() }

// Stop ends all streams with UNAVAILABLE, so that their clients go on
// elsewhere, lets unary requests finish until ctx ends, and returns when
// everything that Start began has ended.
func (s *Server) Stop(ctx context.Context) {
	s.Drain()
	s.stopStreams()
	s.core.bounds.inbound.Close()
	finished := make(chan struct{})
	go func() { defer close(finished); s.grpc.GracefulStop() }()
	select {
	case <-finished:
	case <-ctx.Done():
		s.grpc.Stop()
		<-finished
	}
	s.core.outliving.Wait()
	// Probes have seen enough; a profile that runs is cut off.
	_ = s.http.Close()
	s.stopLoops()
	s.loops.Wait()
}

// touchLocks is part of the heartbeat.
func (s *Server) touchLocks() {
	s.core.peerStatuses.mu.Lock()
	s.core.peerStatuses.mu.Unlock() //nolint:staticcheck // That it can be taken is all.
	if l := s.leaseExpirer.Load(); l != nil {
		l.mu.Lock()
		l.mu.Unlock() //nolint:staticcheck // As above.
	}
}
