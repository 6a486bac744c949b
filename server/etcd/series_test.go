package etcd

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Dashboards and alerts go by the names and labels of the series: all are there
// from the start, and stay.
func TestSeriesOfMetrics(t *testing.T) {
	s := newSolo(t)
	// An error has a series from its first time.
	if _, err := s.kv.Put(t.Context(), nil); err == nil {
		t.Fatal("a put of nothing was taken")
	}
	if _, err := kvv1.NewKVServiceClient(s.conn).Put(t.Context(), nil); err == nil {
		t.Fatal("a put of nothing was taken")
	}
	got := strings.Join(series(t, s.registry), "\n") + "\n"
	want, err := os.ReadFile(filepath.Join("testdata", "series.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got these series:\n%s", got)
	}
}

// series are the names and labels of all that a registry has.
func series(t *testing.T, registry *prometheus.Registry) []string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetName() + "=" + label.GetValue()
			}
			if !strings.Contains(name, "code=Unavailable") { // Of the start of the test.
				all = append(all, name)
			}
		}
	}
	slices.Sort(all)
	return all
}
