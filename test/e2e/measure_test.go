package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// What the load saw, from given ends of calls: the gaps at both edges count too.
func TestMeasurement(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	l := &load{
		done: []done{
			{at: at(-50), write: true}, // Before.
			{at: at(10), write: true}, {at: at(40), write: true}, {at: at(50)},
			{at: at(60), write: true, err: errors.New("no answer")},
			{at: at(90), write: true}, {at: at(130), write: true}, // The last one is too late.
		},
		leaderships: []leadership{{at: at(-10), term: 1}, {at: at(30), term: 2}},
	}
	var m Measurement
	l.fill(&m, start, at(120))
	if m.WriteGap != 50*time.Millisecond || m.ReadGap != 70*time.Millisecond {
		t.Errorf("the longest gaps are %v and %v", m.WriteGap, m.ReadGap)
	}
	if m.Writes != 3 || m.Reads != 1 || len(m.Failed) != 1 || m.Masters != 1 {
		t.Errorf("%+v", m)
	}
	// Nothing at all is a gap as long as the time.
	m = Measurement{}
	l.fill(&m, at(200), at(260))
	if m.WriteGap != 60*time.Millisecond || m.Writes != 0 {
		t.Errorf("%+v", m)
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	r := results{all: []*Measurement{{Scenario: "S00 nothing", Took: 1200 * time.Millisecond, WriteGap: 20 * time.Millisecond,
		target: Target{Took: 15 * time.Second, WriteGap: 300 * time.Millisecond, Masters: -1}}}}
	r.print(&out)
	for _, want := range []string{"S00 nothing", "1.2 s (15.0 s)", "20 ms (300 ms)", "0 (0)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
