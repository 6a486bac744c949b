package store

import (
	"github.com/prometheus/client_golang/prometheus"
)

// register adds the store's metrics, all read when they are scraped.
func (s *Store) register(registerer prometheus.Registerer) error {
	gauge := func(name, help string, value func(Status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "baton", Subsystem: "store", Name: name, Help: help,
		}, func() float64 { return value(s.Status()) })
	}
	for _, collector := range []prometheus.Collector{
		gauge("revision", "Newest revision.", func(st Status) float64 { return float64(st.Revision) }),
		gauge("oldest_revision", "Oldest revision that can be read.", func(st Status) float64 { return float64(st.Compacted) }),
		gauge("applied_index", "Index of the last log entry applied.", func(st Status) float64 { return float64(st.Applied) }),
		gauge("durable_index", "Index of the last log entry in the file.", func(st Status) float64 { return float64(st.Durable) }),
		gauge("file_bytes", "Size of the database file.", func(st Status) float64 { return float64(st.FileBytes) }),
		gauge("file_free_bytes", "Part of the database file that holds nothing.", func(st Status) float64 { return float64(st.FreeBytes) }),
		gauge("leases", "Leases.", func(st Status) float64 { return float64(st.Leases) }),
		gauge("watchers", "Watchers.", func(st Status) float64 { return float64(st.Watchers) }),
		gauge("table_bytes", "Memory of the tables that are not yet in the file.", func(Status) float64 {
			bytes := int64(0)
			for _, t := range s.tables.Load().all() {
				bytes += t.size()
			}
			return float64(bytes)
		}),
	} {
		if err := registerer.Register(collector); err != nil {
			return err
		}
	}
	return nil
}
