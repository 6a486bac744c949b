package server

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// latencyBuckets reach from a local read to the default deadline.
var latencyBuckets = []float64{
	0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10,
}

// metrics are resolved once for each method: the path of a request that goes
// well makes no look-up by label.
type metrics struct {
	handled *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	streams *prometheus.GaugeVec

	watches  prometheus.Gauge
	leases   prometheus.Gauge
	revoked  prometheus.Counter
	diverged prometheus.Gauge
	full     prometheus.Gauge
	ready    prometheus.Gauge

	tlsFailures prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "baton_grpc_handled_total", Help: "Requests that were answered, by method and gRPC code.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "baton_grpc_seconds", Help: "Duration of unary requests.", Buckets: latencyBuckets,
		}, []string{"method"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "baton_grpc_streams", Help: "Open streams.",
		}, []string{"method"}),
		watches: gauge("baton_watches", "Watches on this pod."),
		leases:  gauge("baton_leases", "Leases that this pod, as the master, holds the deadlines of."),
		revoked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "baton_leases_ended_total", Help: "Leases whose time was over, ended by this pod.",
		}),
		diverged: gauge("baton_data_differs", "1: this pod's data differs from another's at one revision. See the log of kvd."),
		full:     gauge("baton_no_space", "1: writes are refused because a volume is nearly full."),
		ready:    gauge("baton_ready", "1: this pod is ready."),
		tlsFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "baton_tls_refused_total", Help: "Connections to the client port whose TLS handshake failed.",
		}),
	}
	r.MustRegister(m.handled, m.seconds, m.streams, m.watches, m.leases, m.revoked, m.diverged, m.full, m.ready, m.tlsFailures)
	return m
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

// method is what is counted of one method.
type method struct {
	seconds prometheus.Observer // nil of a stream
	open    prometheus.Gauge
	ok      prometheus.Counter
	// failed looks its counter up: errors are rare, and most codes never come.
	failed *prometheus.CounterVec
}

func (m *metrics) unary(fullName string) *method {
	method := m.method(fullName)
	method.seconds = m.seconds.WithLabelValues(shortName(fullName))
	return method
}

func (m *metrics) stream(fullName string) *method {
	method := m.method(fullName)
	method.open = m.streams.WithLabelValues(shortName(fullName))
	return method
}

func (m *metrics) method(fullName string) *method {
	name := prometheus.Labels{"method": shortName(fullName)}
	failed := m.handled.MustCurryWith(name)
	return &method{ok: failed.WithLabelValues(codes.OK.String()), failed: failed}
}

// shortName makes "KVService/Put" of "/baton.kv.v1.KVService/Put".
func shortName(fullName string) string {
	return fullName[strings.LastIndexByte(fullName, '.')+1:]
}

func (m *method) done(start time.Time, err error) {
	if m.seconds != nil {
		m.seconds.Observe(time.Since(start).Seconds())
	}
	if err == nil {
		m.ok.Inc()
		return
	}
	m.failed.WithLabelValues(status.Code(err).String()).Inc()
}
