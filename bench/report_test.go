package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

var errTest = errors.New("test")

func TestFormats(t *testing.T) {
	cases := []struct{ got, want string }{
		{perSecond(13_347), "13,300/s"},
		{perSecond(870.4), "870/s"},
		{perSecond(0), "0/s"},
		{perSecond(1_234_567), "1,230,000/s"},
		{milliseconds(0.0012345), "1.23 ms"},
		{milliseconds(0.1415), "142 ms"},
		{milliseconds(0.0761), "76.1 ms"},
		{seconds(7.8), "7.80 s"},
		{mebibytes(700 << 20), "700 MiB"},
		{count(0), "0"},
		{count(1_000_000), "1,000,000"},
		{thousands(-1234), "-1,234"},
	}
	for _, c := range cases {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	got := writeTable([][]string{{"", "etcd", "Baton"}, {"– median", "1", "22 ms"}})
	want := `|          | etcd | Baton |
| -------- | ---: | ----: |
| – median |    1 | 22 ms |
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := writeTable(nil); got != "" {
		t.Errorf("a table of nothing is %q", got)
	}
}

func TestMetricRow(t *testing.T) {
	results := Results{
		"etcd":  {{"rate": {100}, "gap": {1, 2}}, {"rate": {200}, "gap": {3}}, {"rate": {300}}},
		"baton": {{"rate": {300}, "gap": {0.5, 0.6}}, {"rate": {400}, "gap": {0.7}}, {"rate": {500}}},
	}
	cases := []struct {
		metric Metric
		want   string
	}{
		{Metric{Key: "rate", Label: "a", Format: perSecond, Target: Target{ratioAtLeast, 1.7}}, "a;200/s;400/s;2.00× (1.67–3.00);at least 1.7×;yes"},
		{Metric{Key: "rate", Label: "b", Format: perSecond, Target: Target{ratioAtMost, 0.6}}, "b;200/s;400/s;2.00× (1.67–3.00);at most 0.6×;**no**"},
		{Metric{Key: "gap", Label: "c", Format: seconds, Target: Target{valueAtMost, 0.7}, Over: median}, "c;2.00 s;0.60 s;0.30×;at most 0.70 s;yes"},
		{Metric{Key: "gap", Label: "d", Format: count, Over: sum}, "d;6;2;0.30×;;"},
		{Metric{Key: "none", Label: "e", Format: count, Target: Target{ratioAtMost, 1}}, "e;–;–;;;"},
	}
	for _, c := range cases {
		if got := strings.Join(c.metric.row(results), ";"); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestMarkdown(t *testing.T) {
	m := readMeasurement()
	r := Report{
		Machine: Machine{Processor: "a processor", Cores: 2, MemoryGiB: 23.6, FileSystem: "ext4", Sync: time.Millisecond},
		Command: "cd bench && go run .", Plan: fullPlan, Others: 0.2,
		Measurements: []Measurement{m}, Results: []Results{{"etcd": {{"rate": {10}}}, "baton": {{"rate": {20}}}}},
		Notes: []string{"a note"},
	}
	page := r.Markdown()
	for _, want := range []string{"a processor, 2 cores, 24 GiB", "1.00 ms at the median", "run again on a quiet machine", "2.00×", "- a note", "`cd bench && go run .`"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %q:\n%s", want, page)
		}
	}
}

func TestChoose(t *testing.T) {
	chosen, err := choose("kill,put")
	if err != nil || len(chosen) != 2 || chosen[0].Name != "put" {
		t.Errorf("got %v, %v", chosen, err)
	}
	if _, err := choose("put,nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("an unknown measurement gave %v", err)
	}
}
