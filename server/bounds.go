package server

import (
	"context"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/peer"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/quota"
)

// bounds are what clients share of this pod, each by who calls; see limits.go.
type bounds struct {
	connections    *quota.Quota
	handshakes     *quota.Quota
	webConnections *quota.Quota
	streams        *quota.Quota
	watches        *quota.Quota
	// readPatience is the limit of that name; shorter in tests.
	readPatience time.Duration
}

func newBounds(r prometheus.Registerer) *bounds {
	b := &bounds{
		connections:    quota.New("connections", maxConnections),
		handshakes:     quota.New("handshakes", maxHandshakes),
		webConnections: quota.New("HTTP connections", maxWebConnections),
		streams:        quota.New("streams", maxStreams),
		watches:        quota.New("watches", maxWatches),
		readPatience:   readPatience,
	}
	r.MustRegister(b)
	return b
}

func (b *bounds) all() []*quota.Quota {
	return []*quota.Quota{b.connections, b.handshakes, b.webConnections, b.streams, b.watches}
}

var (
	boundUsed = prometheus.NewDesc("baton_bound_used",
		"What clients hold of what this pod has only so much of.", []string{"what"}, nil)
	boundRefused = prometheus.NewDesc("baton_bound_refused_total",
		"Clients' requests that were refused because they, or all, would have held too much.", []string{"what"}, nil)
)

// Describe implements prometheus.Collector.
func (b *bounds) Describe(to chan<- *prometheus.Desc) { to <- boundUsed; to <- boundRefused }

// Collect implements prometheus.Collector.
func (b *bounds) Collect(to chan<- prometheus.Metric) {
	for _, q := range b.all() {
		used, refused := q.Used()
		to <- prometheus.MustNewConstMetric(boundUsed, prometheus.GaugeValue, float64(used), q.Name())
		to <- prometheus.MustNewConstMetric(boundRefused, prometheus.CounterValue, float64(refused), q.Name())
	}
}

// whoCalls is who a limit is counted for: the user who makes a call, or else the
// address that it comes from.
func whoCalls(ctx context.Context) string {
	if user := caller.From(ctx).User; user != "" {
		return user
	}
	if from, ok := peer.FromContext(ctx); ok {
		return host(from.Addr)
	}
	return "somebody"
}

// host is an address without its port, which is another one for each connection.
func host(address net.Addr) string {
	if tcp, ok := address.(*net.TCPAddr); ok {
		return tcp.IP.String()
	}
	if alone, _, err := net.SplitHostPort(address.String()); err == nil {
		return alone
	}
	return address.String()
}
