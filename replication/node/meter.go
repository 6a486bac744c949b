package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/clone"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/propose"
)

// meter are the counters; the gauges are read from Status when asked for.
type meter struct {
	proposals   propose.Meter
	clones      clone.Meter
	readIndexes prometheus.Counter
	handshakes  *prometheus.CounterVec
}

func newMeter() *meter {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "baton_replication_" + name, Help: help})
	}
	return &meter{
		proposals: propose.Meter{
			Commands: counter("proposed_commands_total", "Commands that this pod put into the log as the master."),
			Entries:  counter("proposed_entries_total", "Log entries that they were gathered into."),
			Refused:  counter("overloaded_commands_total", "Commands refused because the queue was full."),
		},
		clones: clone.Meter{
			Sent:   counter("clone_sent_bytes_total", "Bytes of its database that this pod sent to others."),
			Waited: counter("clone_throttled_seconds_total", "Time that clones were held back because this pod had writes to apply."),
		},
		readIndexes: counter("read_indexes_total", "Read indexes got, each for one or many reads."),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "baton_replication_handshakes_refused_total",
			Help: "Peer connections refused, by this pod (in) or because of what the other said (out).",
		}, []string{"side", "reason"}),
	}
}

func (m *meter) handshakeRefused(side string, r handshake.Reason) {
	m.handshakes.WithLabelValues(side, r.String()).Inc()
}

// collector gives the gauges of a node.
type collector struct{ node *Node }

var gauges = []struct {
	desc  *prometheus.Desc
	value func(replication.Status) float64
}{
	{gauge("term", "Raft's term."), func(s replication.Status) float64 { return float64(s.Term) }},
	{gauge("commit_index", "Last log index known to be committed."), func(s replication.Status) float64 { return float64(s.Commit) }},
	{gauge("applied_index", "Last log index applied."), func(s replication.Status) float64 { return float64(s.Applied) }},
	{gauge("log_bytes", "Size of the log."), func(s replication.Status) float64 { return float64(s.LogBytes) }},
	{gauge("queued_commands", "Commands that wait to be proposed or forwarded."), func(s replication.Status) float64 { return float64(s.Queued) }},
	{gauge("last_contact_seconds", "Time since the master was heard."), func(s replication.Status) float64 { return s.LastContact.Seconds() }},
	{gauge("is_master", "1: this pod is the master."), func(s replication.Status) float64 { return oneIf(s.Role == replication.RoleMaster) }},
	{gauge("ready", "1: this pod is ready."), func(s replication.Status) float64 { return oneIf(s.Ready) }},
}

// cloning are of a pod that receives its database, by the pod that sends it.
var cloning = []struct {
	desc  *prometheus.Desc
	value func(replication.CloneProgress) int64
}{
	{sourced("clone_received_bytes", "Bytes received of the clone under way."), func(p replication.CloneProgress) int64 { return p.Bytes }},
	{sourced("clone_total_bytes", "Size of the clone under way."), func(p replication.CloneProgress) int64 { return p.Total }},
	{sourced("clone_bytes_per_second", "Rate of the clone under way."), func(p replication.CloneProgress) int64 { return p.BytesPerSecond }},
}

func sourced(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("baton_replication_"+name, help, []string{"source"}, nil)
}

func gauge(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("baton_replication_"+name, help, nil, nil)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, g := range gauges {
		out <- g.desc
	}
	for _, g := range cloning {
		out <- g.desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c.node.Status()
	for _, g := range gauges {
		out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(s))
	}
	if s.Clone == nil {
		return
	}
	for _, g := range cloning {
		out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(g.value(*s.Clone)), s.Clone.Source)
	}
}

func (m *meter) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.proposals.Commands, m.proposals.Entries, m.proposals.Refused, m.readIndexes, m.handshakes, m.clones.Sent, m.clones.Waited,
	}
}
