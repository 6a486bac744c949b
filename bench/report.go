package main

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Results are the rounds of one measurement, by system's name.
type Results map[string][]Round

// Report is all that the written page says.
type Report struct {
	Machine  Machine
	Versions []string
	Command  string
	Date     time.Time
	Plan     Plan
	Quick    bool
	// Others is the share of the processors that programs other than the
	// benchmark and its pods used meanwhile.
	Others       float64
	Measurements []Measurement
	Results      []Results // one for each measurement
	Notes        []string
}

// loudOthers is the share above which the page warns.
const loudOthers = 0.05

// Markdown is the page.
func (r *Report) Markdown() string {
	var b strings.Builder
	b.WriteString(reportIntroduction)
	b.WriteString("\n## This run\n\n")
	for _, line := range r.facts() {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	b.WriteString("\n## Results\n\n" + reportColumns)
	for i, m := range r.Measurements {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n%s", title(m), m.About, writeTable(r.rows(i)))
	}
	if len(r.Notes) > 0 {
		b.WriteString("\n## Notes\n\n")
		for _, note := range r.Notes {
			fmt.Fprintf(&b, "- %s\n", note)
		}
	}
	return b.String()
}

const reportIntroduction = `# Benchmarks: Baton and etcd, side by side

This page is written by a program: ` + "`make bench`" + `. It builds etcd's real server from its Go module and ` + "`kvd`" + ` from
this project, and runs them on the same machine in the same run: three pods each, every pod a process of its own, on
loopback, with fsync on and every setting at its default (only etcd's quota is raised, so that a million keys fit).

The rounds alternate: etcd, Baton, etcd, Baton, and so on. Each round starts three pods on empty disks, measures, and
ends them, so that only one of the two ever runs. Both are called through the stubs that protoc generates, over gRPC; no
client library is part of the numbers, except where the text says so. Callers have neither TLS nor a user, unless the command
below has ` + "`-secure`" + `: then they have both, with rights on their keys. The callers run on the same machine and take
their share of it, the same in both; their garbage collector runs rarely (as with GOGC=800), so that the share is small.

Run it again with ` + "`make bench`" + ` on a machine that has nothing else to do; it takes about forty minutes.
` + "`cd bench && go run . -quick`" + ` takes three minutes and prints rough numbers, ` + "`-only put`" + ` runs one measurement, and
` + "`-h`" + ` tells the rest. What counts are the ratios: absolute numbers belong to the machine.
`

const reportColumns = "Each number is the median over the rounds. *Ratio* is Baton divided by etcd, and behind it, where there was more than\n" +
	"one round, the lowest and the highest ratio of a round. *Target* is what Baton has to show.\n"

// facts are the lines that say where the numbers come from.
func (r *Report) facts() []string {
	lines := []string{
		"Machine: " + r.Machine.String() + ".",
		"Versions: " + strings.Join(r.Versions, "; ") + ".",
		"Date: " + r.Date.UTC().Format("2 January 2006") + ".",
		"Command: `" + r.Command + "`.",
		fmt.Sprintf("Rounds: %d of each system; a load runs %s to warm up and is counted for %s.", r.Plan.Rounds, r.Plan.Warmup, r.Plan.Duration),
	}
	if r.Quick {
		lines = append(lines, fmt.Sprintf("**This was a quick run** (%s keys in the large store): the numbers are rough.", thousands(float64(r.Plan.StoreKeys))))
	}
	others := fmt.Sprintf("Other programs used %.1f %% of the processors meanwhile.", r.Others*100)
	if r.Others > loudOthers {
		others = "**" + others + " The numbers are disturbed; run again on a quiet machine.**"
	}
	return append(lines, others)
}

// title is the summary with a capital.
func title(m Measurement) string {
	return strings.ToUpper(m.Summary[:1]) + m.Summary[1:]
}

// rows are the table of one measurement, the header first.
func (r *Report) rows(i int) [][]string {
	rows := [][]string{{"", "etcd", "Baton", "Ratio", "Target", "Met"}}
	for _, metric := range r.Measurements[i].Metrics {
		rows = append(rows, metric.row(r.Results[i]))
	}
	return rows
}

// row is one line of a table.
func (m Metric) row(results Results) []string {
	etcd, baton := m.value(results["etcd"]), m.value(results["baton"])
	row := []string{m.Label, m.cell(etcd), m.cell(baton), "", "", ""}
	ratio := baton / etcd
	if !math.IsNaN(ratio) && !math.IsInf(ratio, 0) {
		row[3] = short(ratio) + "×" + m.spread(results)
	}
	if m.Target.Kind != noTarget && !math.IsNaN(baton) {
		row[4] = m.target()
		if m.Target.Kind == valueAtMost || !math.IsNaN(ratio) {
			row[5] = map[bool]string{true: "yes", false: "**no**"}[m.Target.Met(baton, ratio)]
		}
	}
	return row
}

// target is the target in the metric's unit.
func (m Metric) target() string {
	if m.Target.Kind == valueAtMost {
		return "at most " + m.Format(m.Target.Value)
	}
	return m.Target.String()
}

// value is the one value of all rounds; NaN when there is none.
func (m Metric) value(rounds []Round) float64 {
	var all []float64
	for _, round := range rounds {
		all = append(all, round[m.Key]...)
	}
	if len(all) == 0 {
		return math.NaN()
	}
	if m.Over != nil {
		return m.Over(all)
	}
	return median(all)
}

func (m Metric) cell(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	return m.Format(v)
}

// spread is the lowest and the highest ratio of a round.
func (m Metric) spread(results Results) string {
	rounds := min(len(results["etcd"]), len(results["baton"]))
	if rounds < 2 || m.Over != nil {
		return ""
	}
	low, high := math.Inf(1), math.Inf(-1)
	for i := range rounds {
		ratio := median(results["baton"][i][m.Key]) / median(results["etcd"][i][m.Key])
		low, high = min(low, ratio), max(high, ratio)
	}
	return fmt.Sprintf(" (%s–%s)", short(low), short(high))
}
