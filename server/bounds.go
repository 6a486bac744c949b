package server

import (
	"context"
	"net"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/peer"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/inbound"
	"github.com/batondb/baton/internal/quota"
)

// bounds are what clients share of this pod, each by who calls; see limits.go.
type bounds struct {
	connections    *quota.Quota
	handshakes     *quota.Quota
	webConnections *quota.Quota
	streams        *quota.Quota
	watches        *quota.Quota
	calls          *quota.Quota
	arriving       *quota.Quota
	answers        *quota.Quota
	leases         *quota.Quota
	held           heldLeases
	inbound        *inbound.Port
	reading        rangeReads
	passwords      *passwords
}

// newBounds takes what makes an error into what the client gets, and what refuses calls
// early.
func newBounds(r prometheus.Registerer, fail func(error) error, admit func(context.Context, string) (context.Context, error)) *bounds {
	b := &bounds{
		connections:    quota.New("connections", maxConnections),
		handshakes:     quota.New("handshakes", maxHandshakes),
		webConnections: quota.New("HTTP connections", maxWebConnections),
		streams:        quota.New("streams", maxStreams),
		watches:        quota.New("watches", maxWatches),
		calls:          quota.New("calls", maxCalls),
		arriving:       quota.New("bytes of unfinished requests", maxArrivingBytes),
		leases:         quota.New("leases", maxLeases),
		answers:        quota.New("bytes of unread answers", maxAnswerBytes),
		held:           heldLeases{by: map[int64]heldLease{}},
		reading:        rangeReads{quota.NewTurns(min(maxReads, max(leastReads, readsEach*runtime.GOMAXPROCS(0)))), readPatience},
		passwords:      newPasswords(),
	}
	b.inbound = inbound.New(inbound.Options{
		Connections: b.connections, Calls: b.calls, Bytes: b.arriving,
		Patience: arrivalPatience, MaxMessageBytes: maxMessageBytes, Fail: fail, Admit: admit,
	})
	r.MustRegister(b)
	return b
}

func (b *bounds) all() []*quota.Quota {
	return []*quota.Quota{b.connections, b.handshakes, b.webConnections, b.streams, b.watches, b.calls, b.arriving, b.answers, b.leases, b.passwords.waiting}
}

var (
	boundUsed = prometheus.NewDesc("baton_bound_used",
		"What clients hold of what this pod has only so much of.", []string{"what"}, nil)
	boundRefused = prometheus.NewDesc("baton_bound_refused_total",
		"Clients' requests that were refused because they, or all, would have held too much.", []string{"what"}, nil)
	requestsLate = prometheus.NewDesc("baton_requests_late_total",
		"Requests that were ended because they did not arrive whole in time.", nil, nil)
	connectionsSlowed = prometheus.NewDesc("baton_connections_slowed_total",
		"Times that a client's connection was not read for a while, because too much of no use came from its address.", nil, nil)
)

// Describe implements prometheus.Collector.
func (b *bounds) Describe(to chan<- *prometheus.Desc) {
	to <- boundUsed
	to <- boundRefused
	to <- requestsLate
	to <- connectionsSlowed
}

// Collect implements prometheus.Collector.
func (b *bounds) Collect(to chan<- prometheus.Metric) {
	for _, q := range b.all() {
		used, refused := q.Used()
		what := strings.ReplaceAll(strings.ToLower(q.Name()), " ", "_")
		to <- prometheus.MustNewConstMetric(boundUsed, prometheus.GaugeValue, float64(used), what)
		to <- prometheus.MustNewConstMetric(boundRefused, prometheus.CounterValue, float64(refused), what)
	}
	to <- prometheus.MustNewConstMetric(requestsLate, prometheus.CounterValue, float64(b.inbound.Late()))
	to <- prometheus.MustNewConstMetric(connectionsSlowed, prometheus.CounterValue, float64(b.inbound.Slowed()))
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

// host is whom a limit is counted for that is shared by addresses.
func host(address net.Addr) string { return inbound.Host(address) }
