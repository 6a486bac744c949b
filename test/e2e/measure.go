package e2e

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// Measurement is what the load saw while something happened.
type Measurement struct {
	t        *testing.T
	Scenario string
	// Took is how long it took until the cluster was whole again.
	Took              time.Duration
	WriteGap, ReadGap time.Duration
	Writes, Reads     int
	Failed            []error
	// Masters is how many new masters were seen.
	Masters int

	target Target
}

// Target is what a measurement should show. Zero: nothing is said.
type Target struct {
	Took, WriteGap time.Duration
	// Masters is how many changes of master are to be expected; negative: none.
	Masters int
	// MayFail: calls may outlast the client's patience, for example because there
	// is no quorum.
	MayFail bool
}

// measure does something, waits until the cluster is whole again, and says what
// the load saw from the beginning to the end.
func (c *Cluster) measure(name string, target Target, do func()) *Measurement {
	c.t.Helper()
	return c.observe(name, target, func() { do(); c.settle() })
}

// observe is measure for what does not leave a whole cluster behind.
func (c *Cluster) observe(name string, target Target, do func()) *Measurement {
	c.t.Helper()
	from := time.Now()
	do()
	m := &Measurement{t: c.t, Scenario: name, Took: time.Since(from), target: target}
	// What was under way at the end belongs to it.
	time.Sleep(pace)
	c.load.fill(m, from, time.Now())
	table.add(m)
	c.t.Logf("%s: took %v, longest gap in writes %v, in reads %v, failed %d, new masters %d", name,
		m.Took.Round(time.Millisecond), m.WriteGap.Round(time.Millisecond), m.ReadGap.Round(time.Millisecond), len(m.Failed), m.Masters)
	m.judge()
	return m
}

// timed is measure before there is any load.
func (c *Cluster) timed(name string, target time.Duration, do func()) {
	c.t.Helper()
	from := time.Now()
	do()
	c.settle()
	m := &Measurement{t: c.t, Scenario: name, Took: time.Since(from), target: Target{Took: target}}
	table.add(m)
	c.t.Logf("%s: took %v", name, m.Took.Round(time.Millisecond))
	m.judgeTime()
}

func (l *load) fill(m *Measurement, from, to time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lastWrite, lastRead := from, from
	for _, d := range l.done {
		switch {
		case d.at.Before(from) || d.at.After(to):
		case d.err != nil:
			m.Failed = append(m.Failed, d.err)
		case d.write:
			m.Writes++
			m.WriteGap, lastWrite = max(m.WriteGap, d.at.Sub(lastWrite)), d.at
		default:
			m.Reads++
			m.ReadGap, lastRead = max(m.ReadGap, d.at.Sub(lastRead)), d.at
		}
	}
	m.WriteGap, m.ReadGap = max(m.WriteGap, to.Sub(lastWrite)), max(m.ReadGap, to.Sub(lastRead))
	for _, r := range l.leaderships {
		if !r.at.Before(from) && !r.at.After(to) {
			m.Masters++
		}
	}
}

// limit is what fails a test: far enough above the target that a small machine,
// on which everything runs at once, keeps it.
func limit(target time.Duration) time.Duration { return 3*target + 2*time.Second }

func (m *Measurement) judgeTime() {
	m.t.Helper()
	if t := m.target.Took; t > 0 && m.Took > limit(t) {
		m.t.Errorf("%s: took %v, should be %v, must be %v", m.Scenario, m.Took, t, limit(t))
	}
}

func (m *Measurement) judge() {
	m.t.Helper()
	m.judgeTime()
	if t := m.target.WriteGap; t > 0 && m.WriteGap > limit(t) {
		m.t.Errorf("%s: no write for %v, should be %v, must be %v", m.Scenario, m.WriteGap, t, limit(t))
	}
	if !m.target.MayFail && len(m.Failed) > 0 {
		m.t.Errorf("%s: %d calls failed, the first: %v", m.Scenario, len(m.Failed), m.Failed[0])
	}
	if t := m.target.Masters; t != 0 && m.Masters > max(t, 0)+1 {
		m.t.Errorf("%s: %d new masters, should be %d", m.Scenario, m.Masters, max(t, 0))
	}
	if m.Writes == 0 && !m.target.MayFail {
		m.t.Errorf("%s: not one write was acknowledged", m.Scenario)
	}
}

// results are all measurements of a run.
type results struct {
	mu  sync.Mutex // guards all
	all []*Measurement
}

var table results

func (r *results) add(m *Measurement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, m)
}

// print writes the table: what was measured, and in brackets what it should be.
func (r *results) print(out io.Writer) {
	if len(r.all) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nscenario\ttook (target)\tgap in writes (target)\tgap in reads\tfailed\tnew masters (target)\twrites\treads")
	for _, m := range r.all {
		masters := ""
		if m.target.Masters != 0 {
			masters = fmt.Sprintf(" (%d)", max(m.target.Masters, 0))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d%s\t%d\t%d\n", m.Scenario, beside(m.Took, m.target.Took),
			beside(m.WriteGap, m.target.WriteGap), short(m.ReadGap), len(m.Failed), m.Masters, masters, m.Writes, m.Reads)
	}
	_ = w.Flush() // A reader that is gone.
}

func beside(measured, target time.Duration) string {
	if target == 0 {
		return short(measured)
	}
	return short(measured) + " (" + short(target) + ")"
}

func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
