package main

import (
	"math"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	cases := []struct {
		sorted []time.Duration
		p      float64
		want   time.Duration
	}{
		{nil, 0.5, 0},
		{[]time.Duration{7}, 0.5, 7},
		{[]time.Duration{7}, 0.999, 7},
		{hundred, 0, 1},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 0.999, 100},
		{hundred, 1, 100},
		{[]time.Duration{1, 2, 3}, 0.5, 2},
		{[]time.Duration{1, 2, 3, 4}, 0.5, 2},
	}
	for _, c := range cases {
		if got := percentile(c.sorted, c.p); got != c.want {
			t.Errorf("percentile(%v, %g) = %d, want %d", c.sorted, c.p, got, c.want)
		}
	}
}

func TestMedian(t *testing.T) {
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %g", got)
	}
	values := []float64{9, 1, 5}
	if got := median(values); got != 5 {
		t.Errorf("median = %g, want 5", got)
	}
	if values[0] != 9 {
		t.Error("median sorted its argument")
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median = %g, want 2.5", got)
	}
}

func TestLoadSummary(t *testing.T) {
	load := Load{Duration: 2 * time.Second}
	s := load.summary([]caller{
		{latencies: []time.Duration{3, 1}},
		{latencies: []time.Duration{2, 4}, failed: 1, failure: errTest},
	}, 8*time.Millisecond)
	if s.Rate != 2 || s.P50 != 2 || s.P99 != 4 || s.Failed != 1 || s.Failure != errTest {
		t.Errorf("unexpected sample: %+v", s)
	}
	if s.CPU != 2*time.Second {
		t.Errorf("processor time for 1,000 calls is %s, want 2s", s.CPU)
	}
}
